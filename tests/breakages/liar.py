"""Stands before Orthanc on a host of the lab, and gives other answers than Orthanc does, by rules.

Runs on the host: python3 liar.py PORT, before Orthanc's port 8042. The rules come by PUT /.rules as JSON; what they
say is told in lies.py.
"""

import http.client
import http.server
import json
import re
import sys
from typing import Any

rules: list[dict[str, Any]] = []
# Of one hop, or made anew.
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "accept-encoding"}


def altered(text: bytes, change: list[str]) -> bytes:
    """Replace a pattern; JSON has bytes as Latin-1."""
    pattern, new = (part.encode("latin-1") for part in change)
    return re.sub(pattern, new, text, flags=re.DOTALL)


class Liar(http.server.BaseHTTPRequestHandler):
    """Hands on what no rule is about."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/.rules":
            rules[:] = json.loads(body)
            self._send(200, {}, b"")
            return
        lies = [rule for rule in rules if re.fullmatch(rule["match"], f"{self.command} {self.path}")]
        lies = [rule for rule in lies if re.search(rule.get("holding", "").encode("latin-1"), body)]
        path = self.path
        for rule in lies:
            body = altered(body, rule["sent"]) if "sent" in rule else body
            path = altered(path.encode(), rule["asked"]).decode() if "asked" in rule else path
        kept = any(rule.get("swallow") for rule in lies)
        code, headers, content = (200, {}, b"") if kept else self._ask(self.command, path, body)
        for rule in lies:
            if "after" in rule:
                self._ask("DELETE", rule["after"], b"")
            content = rule["body"].encode("latin-1") if "body" in rule else content
            content = altered(content, rule["change"]) if "change" in rule else content
            if "flip" in rule:
                place = rule["flip"]
                content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 or len(content) :]
            code = rule.get("status", code)
            headers = {**headers, "Content-Type": rule["kind"]} if "kind" in rule else headers
        self._send(code, headers, content)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # so the library calls them

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        orthanc = http.client.HTTPConnection("127.0.0.1", 8042, timeout=60)
        own = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        orthanc.request(method, path, body if body or method in ("POST", "PUT") else None, own)
        answer = orthanc.getresponse()
        content = answer.read()
        orthanc.close()
        told = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
        return answer.status, told, content

    def _send(self, code: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Liar).serve_forever()  # nosec
