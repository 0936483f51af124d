"""Debian's Chromium without a screen, told what to do over its DevTools protocol, as that has it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

# Two pipes, each message with a zero behind it. Other shells take numbers of one digit alone.
PROGRAM = 'exec chromium "$@" 3<&{} 4>&{}'
OPTIONS = [
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--window-size=1400,900"),
    # It draws by its own means, and asks nobody for anything by itself.
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-default-browser-check"),
    *("--disable-dev-shm-usage", "--no-proxy-server"),
]
# In the viewer OHIF the stack of images that is seen; nothing as long as there is none.
STACK = """
globalThis.stack = () => (globalThis.cornerstone?.getRenderingEngines() ?? []).flatMap(one => one.getViewports())
    .find(one => one.getCornerstoneImage?.() && one.getImageIds().length)
"""


class Browser:
    """One tab. It keeps what the page asks for, from whom, and what it says in the console."""

    def __init__(
        self,
        folder: pathlib.Path,
        login: tuple[str, str] | None = None,
        key: str = "",
        knows: str = "",
        shows: tuple[str, str] | None = None,
    ) -> None:
        """Start it.

        :param folder: where it keeps what it knows; an empty one knows nothing.
        :param key: the hash of a public key by which it trusts a server, of which alone it keeps anything. Else it
            takes any: the site's certificate is its own; who it is, others test.
        :param knows: a name and the address that it has for it, with a blank between them.
        :param shows: a certificate and its key, which it shows to whoever asks, without asking a person.
        """
        options = [*OPTIONS, f"--user-data-dir={folder}"]
        options.append("--ignore-certificate-errors" + (f"-spki-list={key}" if key else ""))
        options += [f"--host-resolver-rules=MAP {knows}"] if knows else []
        self._from, write = os.pipe()
        read, self._to = os.pipe()
        # None of them is one of those that Chromium is to have.
        given = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write)]
        command = ["bash", "-c", PROGRAM.format(*given), "bash", *options, "about:blank"]
        environment = dict(os.environ)
        if shows:
            command = [*own(folder, *shows), *command]
            environment["HOME"] = str(folder)
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for end in (read, write, *given):
            os.close(end)
        self._left, self._number, self._session = b"", 0, ""
        self._login = login
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        (target,) = [one for one in self("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self._session = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        # Else it would show a window that asks for the login.
        self("Fetch.enable", handleAuthRequests=True)

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Have it do something, and return what it answers."""
        number = self._send(method, params)
        while True:
            message = self._receive(120)
            assert message, f"Chromium does not answer {method}"
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                return dict(message["result"])

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        os.write(
            self._to, json.dumps({"id": self._number, "method": method, "params": params, **session}).encode() + b"\0"
        )
        return self._number

    def _receive(self, seconds: float) -> dict[str, Any]:
        """Return the next message; nothing if none comes in time."""
        end = time.monotonic() + seconds
        while b"\0" not in self._left:
            if not select.select([self._from], [], [], max(0, end - time.monotonic()))[0]:
                return {}
            came = os.read(self._from, 1 << 20)
            assert came, "Chromium has ended"
            self._left += came
        text, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._hear(message.get("method", ""), message.get("params", {}))
        return message

    def _hear(self, method: str, said: dict[str, Any]) -> None:
        if method == "Fetch.requestPaused":
            self._send("Fetch.continueRequest", {"requestId": said["requestId"]})
        elif method == "Fetch.authRequired":
            user, password = self._login or ("", "")
            reply = {"response": "ProvideCredentials", "username": user, "password": password}
            reply = reply if self._login else {"response": "CancelAuth"}
            self._send("Fetch.continueWithAuth", {"requestId": said["requestId"], "authChallengeResponse": reply})
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"])
        elif method == "Network.responseReceived":
            self.answers[said["response"]["url"]] = said["response"]
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def value(self, script: str) -> Any:
        """Return what an expression of JavaScript is in the page."""
        said = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, script: str, seconds: float = 240) -> Any:
        """Wait until an expression is something, and return it; a busy machine takes its time."""
        end = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end, (
                f"not in {seconds} s: {script}\n{self.errors}\n{self.value('document.body?.innerText')}"
            )
            self._receive(0.2)
        return found

    def mouse(self, *places: tuple[float, float], button: str = "left") -> None:
        """Press a button at the first of some places, move it to the others, and let it go."""
        one = {"button": button, "clickCount": 1}
        self("Input.dispatchMouseEvent", type="mouseMoved", x=places[0][0], y=places[0][1])
        self("Input.dispatchMouseEvent", type="mousePressed", x=places[0][0], y=places[0][1], **one)
        for x, y in places[1:]:
            self("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **one)
        self("Input.dispatchMouseEvent", type="mouseReleased", x=places[-1][0], y=places[-1][1], **one)

    def wheel(self, place: tuple[float, float], turns: float) -> None:
        """Turn the wheel, downwards if it is more than nothing."""
        self("Input.dispatchMouseEvent", type="mouseWheel", x=place[0], y=place[1], deltaX=0, deltaY=100 * turns)

    @property
    def hosts(self) -> set[str]:
        """With whom the page has talked. What it makes itself has no host, nor has what shows a PDF."""
        urls = [urlsplit(request["url"]) for request in self.requests]
        return {url.netloc for url in urls if url.scheme != "chrome-extension"} - {""}

    def picture(self, name: str) -> None:
        """Have what is seen in the docs, where the caller is asked for that: smaller, as it lies in text."""
        if os.environ.get("PACS_PICTURES"):
            clip = {"x": 0, "y": 0, "width": 1400, "height": 760, "scale": 0.6}
            data = self("Page.captureScreenshot", format="png", clip=clip)["data"]
            pathlib.Path(os.environ["PACS_PICTURES"], f"{name}.png").write_bytes(base64.b64decode(data))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


@contextlib.contextmanager
def opened(
    folder: pathlib.Path,
    login: tuple[str, str] | None = None,
    knows: str = "",
    shows: tuple[str, str] | None = None,
) -> Iterator[Browser]:
    """Open a browser that knows nothing, and close it."""
    if not shutil.which("chromium") or not shutil.which("pk12util"):
        install()
    browser = Browser(folder, login, knows=knows, shows=shows)
    try:
        yield browser
    finally:
        browser.close()


def own(folder: pathlib.Path, certificate: str, key: str) -> list[str]:
    """Give a browser a certificate that its person has, and the policy to show it.

    :return: a command before its own, with which nobody else on this machine has that policy.
    """
    private = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    shown = x509.load_pem_x509_certificate(certificate.encode())
    locked = serialization.BestAvailableEncryption(b"x")
    (folder / "own.p12").write_bytes(pkcs12.serialize_key_and_certificates(b"own", private, shown, None, locked))
    # Newer releases look in the second.
    for place in (folder / ".pki/nssdb", folder / ".local/share/pki/nssdb"):
        place.mkdir(parents=True)
        for command in ("certutil -N --empty-password", f"pk12util -i {folder}/own.p12 -W x"):
            subprocess.run([*command.split(), "-d", f"sql:{place}"], check=True, stdout=subprocess.DEVNULL)
    policies = folder / "etc/policies/managed"
    policies.mkdir(parents=True)
    rule = json.dumps({"pattern": "*", "filter": {}})
    (policies / "own.json").write_text(json.dumps({"AutoSelectCertificateForUrls": [rule]}), encoding="utf-8")
    script = f'mount --bind {folder}/etc /etc/chromium && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]


def install() -> None:
    """Have Chromium, where it is missing."""
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("update -q", "install -y -q --no-install-recommends chromium libnss3-tools"):
        subprocess.run([*sudo, "apt-get", *command.split()], check=True, env=environment, stdout=subprocess.DEVNULL)
