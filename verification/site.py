"""What the suite knows of a site: the description that the role ``verification`` writes."""

from __future__ import annotations

import base64
import json
import pathlib
import ssl
import tempfile
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Site:
    """One host with Orthanc, and how the public reaches it through one of its proxies.

    The fields are those of ``__verification_site`` in the role's ``vars/main.yml``. Fields with
    secrets are not shown, so that no report quotes them.
    """

    name: str
    # Of all hosts of the inventory, in SVG.
    picture: str = field(repr=False)
    proxy: str
    url: str
    plain_port: int
    ban_after: int
    viewer: str
    viewer_site: str
    relay_port: int
    relay_certificate: str
    certificate: str
    certificate_file: str
    users_file: str
    upstream_file: str
    version: str
    plugins: list[str]
    scripts: dict[str, str]
    script_tests: dict[str, dict[str, Any]]
    rule_scripts: dict[str, str]
    ingest: list[dict[str, Any]]
    deidentify: list[dict[str, Any]]
    worklists: str
    routes: list[dict[str, Any]]
    webhooks: list[str]
    config_dir: str
    storage_dir: str
    http_port: int
    dicom_address: str
    dicom_port: int
    aet: str
    database: str
    database_index: bool
    database_storage: bool
    database_server: str
    database_beside: bool
    database_encrypted: bool
    database_of_others: bool
    database_closed_port: int
    # Its servers with their addresses, where it is on several; etcd's members with theirs and their ports.
    cluster: dict[str, str]
    etcd: dict[str, str]
    # The hosts with a balancer before it, with their addresses; the one that clients know, its name and ports; the
    # hosts of the Orthancs behind it, and whether senders are compared with their addresses.
    balancers: dict[str, str]
    shared_address: str
    shared_name: str
    shared_https_port: int
    shared_dicom_port: int
    behind: list[str]
    senders_checked: bool
    backup: bool
    connection: dict[str, Any] = field(repr=False)
    proxy_connection: dict[str, Any] = field(repr=False)
    cluster_connections: dict[str, dict[str, Any]] = field(repr=False)
    balancer_connections: dict[str, dict[str, Any]] = field(repr=False)
    users: dict[str, str] = field(repr=False)
    inner_authorization: str = field(repr=False)
    identity: str = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    modality: dict[str, Any] | list[Any] = field(repr=False)
    modality_name: str
    modalities: dict[str, Any]
    dicom_certificate: str
    dicom_asks: bool
    level: str
    accepted_risks: list[str]
    # Whether the same Orthanc is proved through another proxy already.
    further: bool = False

    @classmethod
    def read(cls, path: pathlib.Path) -> list[Site]:
        """Read a description: the host once for each proxy before it, or once if there is none."""
        described = json.loads(path.read_text("utf-8"))
        faces, connections, certificates, url = (
            described.pop(name) for name in ("faces", "proxy_connections", "certificates", "url")
        )
        return [
            cls(
                **described,
                proxy=face["proxy"],
                proxy_connection=connection,
                # What others are told is that of the first one.
                url=face["url"] if number else url,
                plain_port=face["http_port"],
                ban_after=face["ban_after"],
                viewer=face["viewer"],
                viewer_site=face["viewer_site"],
                certificate=certificate,
                certificate_file=face["certificate"],
                users_file=face["users_file"],
                upstream_file=face["upstream_file"],
                further=number > 0,
            )
            for number, (face, connection, certificate) in enumerate(zip(faces, connections, certificates, strict=True))
        ]

    @property
    def label(self) -> str:
        """What a report calls it."""
        return f"{self.name} by {self.proxy}" if self.further else self.name

    @property
    def proxied(self) -> bool:
        """Whether a proxy stands before Orthanc."""
        return bool(self.proxy)

    @property
    def host(self) -> str:
        """The public name or address."""
        return str(urlsplit(self.url).hostname)

    @property
    def port(self) -> int:
        """The public port."""
        return urlsplit(self.url).port or 443

    @property
    def prefix(self) -> str:
        """The path of Orthanc on the site, with a slash at both ends."""
        return urlsplit(self.url).path

    @property
    def address(self) -> str:
        """Where Orthanc's own ports are, past the proxy."""
        return str(self.connection.get("ansible_host", self.name))

    def netloc(self, port: int) -> str:
        """A port of the host, as it stands in a URL."""
        return f"[{self.address}]:{port}" if ":" in self.address else f"{self.address}:{port}"

    @property
    def calling_aet(self) -> str:
        """The title under which this machine may store images; empty if it is no modality."""
        if isinstance(self.modality, list):
            return str(self.modality[0])
        return str(self.modality.get("AET", ""))

    @property
    def encrypts(self) -> bool:
        """Whether Orthanc uses TLS when it sends to this machine."""
        return isinstance(self.modality, dict) and bool(self.modality.get("UseDicomTls"))

    @property
    def receiver(self) -> tuple[str, int]:
        """Where this machine listens as a modality."""
        if isinstance(self.modality, list):
            return str(self.modality[1]), int(self.modality[2])
        return str(self.modality.get("Host", "")), int(self.modality.get("Port", 0))

    @property
    def login(self) -> tuple[str, str]:
        """The first user, and the password."""
        return next(iter(self.users.items()))

    @staticmethod
    def basic(user: str, password: str) -> str:
        """The header of a login."""
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

    @property
    def secrets(self) -> dict[str, list[str]]:
        """Every user, the proxy's own included, and the forms in which the password could lie in a file."""
        logins = [f"{user}:{password}" for user, password in self.users.items()]
        if self.inner_authorization:
            logins.append(base64.b64decode(self.inner_authorization.split()[1]).decode())
        parts = {login: login.partition(":") for login in logins}
        return {
            user: list(
                dict.fromkeys(
                    [
                        password,
                        base64.b64encode(login.encode()).decode(),
                        # In Orthanc's configuration, where $ begins the name of a variable.
                        json.dumps(password)[1:-1],
                        json.dumps(password)[1:-1].replace("$", r"\u0024"),
                    ]
                )
            )
            for login, (user, _, password) in parts.items()
        }

    def trust(self, certificate: str = "") -> ssl.SSLContext:
        """Trust the site's own certificate and nothing else, be it self-signed or signed by any authority."""
        context = ssl.create_default_context(cadata=certificate or self.certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Newer Pythons would also hold a site's own authority to rules that older ones do not know.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return self._introduce(context)

    def dicom(self, server: bool = False) -> ssl.SSLContext | None:
        """How an association with Orthanc is encrypted, on this side or for what listens here; nothing if it is not."""
        if not self.dicom_certificate:
            return None
        context = self.trust(self.dicom_certificate)
        # In DICOM a certificate is for a title.
        context.check_hostname = False
        if not server:
            return context
        listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        listening.verify_flags = context.verify_flags
        listening.verify_mode = ssl.CERT_REQUIRED
        listening.load_verify_locations(cadata=self.dicom_certificate)
        return self._introduce(listening)

    def _introduce(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Have this machine show its certificate, if it has one."""
        if self.identity:
            # Python takes it from a file alone; this one is for its owner, and is gone at once.
            with tempfile.NamedTemporaryFile(mode="w", encoding="ascii") as file:
                file.write(self.identity)
                file.flush()
                context.load_cert_chain(file.name)
        return context
