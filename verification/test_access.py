"""Who gets in: TLS, logins, and what is refused."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl

import pytest
import requests
from cryptography import x509

from verification.client import Client
from verification.expect import expect
from verification.patient import CT
from verification.reach import expect_open
from verification.site import Site

ROUTES = ["/", "/system", "/patients", "/instances", "/changes", "/app/explorer.html", "/dicom-web/studies"]
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
}


@pytest.mark.parametrize("route", ROUTES)
def test_nobody_gets_in_without_a_login(anonymous: Client, route: str) -> None:
    expect(f"GET {route} without a login", 401, anonymous.get(route).status_code, "nginx_users")


def test_nobody_gets_in_with_a_wrong_login(public: Site) -> None:
    spare(public)
    user, password = public.login
    status = Client(public.url, public.trust(), (user, f"{password} ")).get("/system").status_code
    expect("GET /system with a wrong password", 401, status, "nginx_users")


def test_login_of_the_proxy_is_not_for_the_public(public: Site, anonymous: Client) -> None:
    spare(public)
    user, _, password = base64.b64decode(public.inner_authorization.split()[1]).decode().partition(":")
    if public.users.get(user) == password:
        pytest.skip("orthanc_users has the very login of orthanc_proxy_user")
    answer = anonymous.get("/system", headers={"Authorization": public.inner_authorization})
    expect("GET /system as orthanc_proxy_user through the proxy", 401, answer.status_code, "nginx_users")


def spare(site: Site) -> None:
    """Leave out a wrong login where a few of them, of a few runs, would shut this machine out."""
    if 0 < site.ban_after < 10:
        pytest.skip(f"nginx_ban_after is {site.ban_after}: wrong logins of this machine would be counted too")


def test_nobody_uploads_or_deletes_without_a_login(anonymous: Client, patient: Client) -> None:
    upload = anonymous.post("/instances", data=CT.content)
    expect("POST /instances without a login", 401, upload.status_code, "nginx_users")
    deletion = anonymous.delete(f"/patients/{CT.patient}")
    expect("DELETE of a patient without a login", 401, deletion.status_code, "nginx_users")
    expect("the patient afterwards", 200, patient.get(f"/patients/{CT.patient}").status_code)


def test_every_user_gets_in(public: Site) -> None:
    for user, password in public.users.items():
        status = Client(public.url, public.trust(), (user, password)).get("/system").status_code
        expect(f"GET /system as {user}", 200, status, "orthanc_users, nginx_users")


def test_http_leads_to_https(public: Site) -> None:
    expect_open("which leads to HTTPS", public.host, public.plain_port, "nginx_http_port")
    connection = http.client.HTTPConnection(public.host, public.plain_port, timeout=10)
    connection.request("GET", f"{public.prefix}system")
    answer = connection.getresponse()
    got = (answer.status, answer.getheader("Location"))
    connection.close()
    expect(f"HTTP on port {public.plain_port}", (301, f"{public.url}system"), got, "nginx_http_port, nginx_server_name")


@pytest.mark.parametrize("route, status", [("/system", 200), ("/no-such-route", 404)])
def test_answers_carry_security_headers(public: Site, client: Client, route: str, status: int) -> None:
    answer = client.get(route)
    expect(f"GET {route}", status, answer.status_code)
    expected = dict(SECURITY_HEADERS)
    certificate = x509.load_pem_x509_certificate(public.certificate.encode())
    if certificate.issuer != certificate.subject:
        expected["Strict-Transport-Security"] = "max-age=31536000"
    # Newer releases of Orthanc send some of them as well: a browser takes the first.
    got = {name: answer.headers.get(name, "").split(",")[0] for name in expected}
    expect(f"headers of GET {route}", expected, got)
    expect(f"Server of GET {route}, without a version", "nginx", answer.headers.get("Server"))


@pytest.mark.parametrize(
    "version, expected",
    [
        (ssl.TLSVersion.TLSv1_1, "TLSV1_ALERT_PROTOCOL_VERSION"),
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
    ids=["1.1", "1.2", "1.3"],
)
def test_tls_version(public: Site, facts: dict[str, str], version: ssl.TLSVersion, expected: str) -> None:
    context, name = public.trust(), version.name.replace("v", " ").replace("_", ".")
    # Else this side would refuse an old version by itself, and the server would not be asked.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    try:
        with (
            socket.create_connection((public.host, public.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=public.host) as secured,
        ):
            got = secured.version()
            facts[name] = str((secured.cipher() or ["none"])[0])
    except ssl.SSLError as error:
        got = error.reason
        facts[name] = "refused"
    expect(f"handshake with {version.name}", expected, got)


def test_relay_is_for_the_proxy_only(site: Site) -> None:
    if not site.relay_port:
        pytest.skip(f"the proxy of {site.name} is on the same host, or there is none")
    context = site.trust(site.relay_certificate)
    expect_open("which is for the proxy", site.address, site.relay_port, "nginx_relay_port")
    # The certificate is for the name in the inventory.
    with (
        socket.create_connection((site.address, site.relay_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=site.name) as secured,
    ):
        request = f"GET /system HTTP/1.0\r\nAuthorization: {site.inner_authorization}\r\n\r\n"
        secured.sendall(request.encode())
        answer = secured.recv(100).decode("latin-1")
    # With the login of the proxy, but without its certificate.
    expect("GET /system at the relay without the proxy's certificate", "400", answer[9:12], "nginx_upstream_server")


def test_http_port_of_orthanc_is_closed_from_here(site: Site) -> None:
    session = requests.Session()
    session.trust_env = False
    try:
        url = f"http://{site.netloc(site.http_port)}/system"
        status = session.get(url, timeout=5, allow_redirects=False).status_code
    except requests.ConnectionError:
        return
    expect(f"{url} is refused, 401 or 403", True, status in (401, 403), "orthanc_settings.RemoteAccessAllowed")
