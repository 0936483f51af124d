"""Send requests to a host as an attacker would. Runs on the attacking host, with what Debian's Python has.

Arguments: the host. Reads JSON: either ``requests``, of a method, a path and an Authorization header each, or
``texts``, to be sent as they are over TLS. Prints JSON: of each answer the status (0: none) and the body's beginning,
or the whole text that came back.
"""

import concurrent.futures
import http.client
import json
import socket
import ssl
import sys
import threading
from typing import Any

host, wanted = sys.argv[1], json.load(sys.stdin)
context = ssl.create_default_context()
# It is about what the host lets in, not about who it is.
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
own = threading.local()


def connection() -> http.client.HTTPSConnection:
    if not hasattr(own, "connection"):
        own.connection = http.client.HTTPSConnection(host, context=context, timeout=30)
    kept: http.client.HTTPSConnection = own.connection
    return kept


def ask(request: list[str]) -> list[Any]:
    method, path, login = request
    body = None if method in ("GET", "HEAD", "OPTIONS", "TRACE") else b"{}"
    try:
        connection().request(method, path, body=body, headers={"Authorization": login} if login else {})
        answer = connection().getresponse()
        return [answer.status, answer.read().decode("latin-1")[:200]]
    except (http.client.HTTPException, OSError):
        return [0, ""]
    finally:
        # The next one does not wait for what this one left behind.
        if own.connection.sock is not None and method in ("TRACE", "PROPFIND", "OPTIONS"):
            own.connection.close()


def send(text: str) -> str:
    received = b""
    with socket.create_connection((host, 443), timeout=5) as plain, context.wrap_socket(plain) as secured:
        secured.settimeout(1.5)
        try:
            secured.sendall(text.encode("latin-1"))
            while part := secured.recv(65536):
                received += part
        except OSError:
            pass
    return received.decode("latin-1")


with concurrent.futures.ThreadPoolExecutor(8) as pool:
    if "texts" in wanted:
        print(json.dumps(list(pool.map(send, wanted["texts"]))))
    else:
        print(json.dumps(list(pool.map(ask, wanted["requests"]))))
