"""One way to fail: what was looked at, what was expected, what came, and where to look."""

from __future__ import annotations

# The most likely cause of a status that nobody asked for.
CAUSES = {
    400: "Orthanc does not take what was sent; journalctl -u orthanc",
    401: "login of nginx_users or orthanc_users; after a change of either run playbooks/site.yml",
    403: "orthanc_accepted_risks, orthanc_settings.RemoteAccessAllowed",
    404: "nginx_prefix, orthanc_plugins; or it was removed meanwhile",
    413: "a proxy on the way takes no file of this size; client_max_body_size",
    500: "disk full, or an error inside Orthanc; df, journalctl -u orthanc",
    502: "the proxy does not reach Orthanc's host, or takes it for somebody else's; /var/log/nginx/error.log",
    503: "Orthanc does not run behind the proxy, or does not reach its database; systemctl status orthanc",
    504: "Orthanc is too slow for the proxy; nginx_timeout",
    507: "the disk under orthanc_storage_dir is full; df",
}


class Unexpected(AssertionError):
    """What came is not what is expected; the message says all that a reader needs."""


def expect(what: str, expected: object, got: object, see: str = "") -> None:
    """Compare what came with what was expected.

    :param what: what was looked at, such as ``GET /system``.
    :param see: the variable, or the command, that helps when it is not as expected.
    :raises Unexpected: if the two are not equal.
    """
    if got == expected:
        return
    if isinstance(got, int) and not isinstance(got, bool):
        see = "; ".join(filter(None, (see, CAUSES.get(got, ""))))
    raise Unexpected(f"{what}: expected {expected!r}, got {got!r}" + (f"; see {see}" if see else ""))
