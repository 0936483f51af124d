"""What Docker says is told in the terms of the inventory."""

import pytest
from ansible_collections.dicom.orthanc.plugins.filter.docker import image_problem


# As Docker 20.10 and 26.1 say it.
@pytest.mark.parametrize(
    "said, part",
    [
        ('Head "https://registry:5000/v2/a/manifests/1": unauthorized: authentication required', "refuses the login"),
        ('Head "https://registry:5000/v2/a/manifests/1": no basic auth credentials', "orthanc_docker_registry_user"),
        ("pull access denied for a/b, repository does not exist or may require 'docker login'", "orthanc_docker_image"),
        ("manifest for registry:5000/a:9 not found: manifest unknown: manifest unknown", "no such image or tag"),
        ('Get "https://registry:5000/v2/": dial tcp 192.0.2.1:5000: connect: connection refused', "does not answer"),
        ('Get "https://registry:5000/v2/": dial tcp: lookup registry: no such host', "docker_engine_registry_mirrors"),
        (
            'Get "https://registry:5000/v2/": tls: failed to verify certificate: x509: certificate signed by',
            "_certificates",
        ),
        ("http: server gave HTTP response to HTTPS client", "is not trusted"),
        ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", "is full"),
    ],
)
def test_known_errors(said: str, part: str) -> None:
    assert part in image_problem(f"Error pulling image registry:5000/a:1 - 500 Server Error ({said})")


def test_unknown_error() -> None:
    assert image_problem("something else") == ""
