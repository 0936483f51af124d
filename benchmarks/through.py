"""Send images to the web server of this host, or fetch some: standard library only, since it runs there.

Reads what to do as JSON from its first argument, and prints how many seconds it took. The clients are processes, each
with one connection that it keeps.
"""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import pathlib
import ssl
import sys
import time
from typing import Any

from load import Template  # type: ignore[import-not-found]

FRAMES = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


def work(task: dict[str, Any], client: int, ready: Any) -> None:
    """Do this client's share."""
    context = ssl.create_default_context()
    # It is about how fast it is, not about who it is.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", task["port"], timeout=300, context=context)
    connection.connect()
    headers = {"Authorization": "Basic " + base64.b64encode(task["login"].encode()).decode()}
    image = Template(pathlib.Path(task["image"])) if task["image"] else None
    paths = task["paths"]
    first, last = (task["number"] * end // task["clients"] for end in (client, client + 1))
    ready.wait()
    for number in range(first, last):
        if image:
            connection.request("POST", paths[0], image.fill(task["first"] + number), headers)
        else:
            connection.request("GET", paths[number % len(paths)], headers=headers | FRAMES)
        answer = connection.getresponse()
        assert answer.read(), "an answer of nothing"
        assert answer.status == 200, answer.status
    # Those who have come first wait for the last.
    ready.wait()


def main() -> None:
    task: dict[str, Any] = json.loads(sys.argv[1])
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(task["clients"] + 1)
    processes = [context.Process(target=work, args=(task, client, ready)) for client in range(task["clients"])]
    for process in processes:
        process.start()
    ready.wait()
    start = time.perf_counter()
    ready.wait(600)
    print(time.perf_counter() - start)
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
