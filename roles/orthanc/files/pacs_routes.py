"""Sends studies on, and tells of them, as orthanc_routes and orthanc_webhooks say, until all of it has arrived.

What has arrived is read from Orthanc's log of changes, which no kill loses, and stands in a file of our own together
with how far that log was read. So whatever ends whenever, an image is sent once more, and never forgotten. Orthanc's
jobs do the sending: a call that waits would keep all of Python waiting.
"""

import contextlib
import functools
import http.client
import json
import os
import socket
import sqlite3
import ssl
import threading
import time
import urllib.parse
import uuid
from typing import Any

import orthanc
from pacs_tags import fits

FILE = ".pacs-routes"
SCHEMA = """
CREATE TABLE IF NOT EXISTS position (change INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS arrived (instance TEXT PRIMARY KEY, study TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS arrived_study ON arrived (study);
CREATE TABLE IF NOT EXISTS routed (study TEXT, destination TEXT, PRIMARY KEY (study, destination));
CREATE TABLE IF NOT EXISTS waiting (
    destination TEXT, study TEXT, since REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
    job TEXT NOT NULL DEFAULT '', PRIMARY KEY (destination, study)
);
CREATE TABLE IF NOT EXISTS images (
    destination TEXT, study TEXT, instance TEXT, tries INTEGER NOT NULL DEFAULT 0, sending INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (destination, study, instance)
);
"""
# In seconds: how often is looked, and how often while something is on its way; for how long a number that is left out
# in the log may be a change which others have not committed yet; and after what a study, and whatever goes to a
# destination, is tried again, at first and at most.
TICK, SOON, GAP = 1.0, 0.2, 30.0
AGAIN, ALONE_AGAIN, DESTINATION_AGAIN = (60.0, 900.0), (60.0, 86400.0), (5.0, 60.0)
PAGE, LISTED = 1000, 1000
# OrthancPluginErrorCode: there is no such resource.
GONE = 17
# By what a request to a webhook is told from a job of Orthanc.
CALL = "webhook "
# What Orthanc says where nobody is there to refuse an image.
AWAY = "connecting to AET"
# How often an image counts as refused that was sent alone then.
ALONE = 1000


class Gone(Exception):
    """A resource that is not there."""


def ask(path: str, body: Any = None) -> Any:
    """Return what Orthanc answers. :raises Gone: if it has no such resource."""
    try:
        answer = orthanc.RestApiGet(path) if body is None else orthanc.RestApiPost(path, json.dumps(body))
    except orthanc.OrthancException as error:
        if error.args and error.args[0] == GONE:
            raise Gone(f"Orthanc knows no {path}") from None
        raise
    return json.loads(answer)


def images_of(study: str) -> dict[str, list[str]]:
    """Return the images of a study by their series; none if it is gone."""
    found = {}
    with contextlib.suppress(Gone):
        for series in ask(f"/studies/{study}")["Series"]:
            with contextlib.suppress(Gone):
                found[series] = ask(f"/series/{series}")["Instances"]
    return found


class Call:
    """A request to a webhook, in a thread of its own: all of Python does not wait for it.

    No redirection is followed, since the token is for one server, and no proxy is asked.
    """

    # For how long a server may be silent, and until when all of it has to be done: one that sends a byte now and then
    # would keep those waiting that come after.
    SECONDS, IN_ALL = 30.0, 60.0

    def __init__(self, url: str, token: str, authorities: str, told: dict[str, Any]) -> None:
        self.error: str | None = None
        self._url, self._body, self._authorities = urllib.parse.urlsplit(url), json.dumps(told).encode(), authorities
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._socket: socket.socket | None = None
        self._late = False
        self.thread = threading.Thread(target=self._run, name="pacs_webhook", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        watch = threading.Timer(self.IN_ALL, self._end)
        watch.daemon = True
        watch.start()
        try:
            self._ask()
        except Exception as error:
            self.error = str(error) or type(error).__name__
        finally:
            watch.cancel()
        if self._late:
            self.error = f"it has not answered within {self.IN_ALL:.0f} s"

    def _ask(self) -> None:
        host, port = self._url.hostname or "", self._url.port
        connection = http.client.HTTPConnection(host, port or (443 if self._url.scheme == "https" else 80))
        try:
            self._connect(connection)
            path = urllib.parse.urlunsplit(("", "", self._url.path or "/", self._url.query, ""))
            connection.request("POST", path, self._body, {"Host": self._url.netloc, **self._headers})
            answer = connection.getresponse()
            if not 200 <= answer.status < 300:
                self.error = f"HTTP Error {answer.status}: {answer.reason}"
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        self._socket = connection.sock = socket.create_connection((connection.host, connection.port), self.SECONDS)
        if self._url.scheme == "https":
            context = ssl.create_default_context(cafile=self._authorities or None)
            # So that it can be ended meanwhile.
            secured = context.wrap_socket(
                connection.sock, server_hostname=connection.host, do_handshake_on_connect=False
            )
            self._socket = connection.sock = secured
            secured.do_handshake()

    def _end(self) -> None:
        self._late = True
        with contextlib.suppress(AttributeError, OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


def later(attempts: int, between: tuple[float, float]) -> float:
    """Return how long to wait after so many attempts."""
    return min(between[0] * 2.0 ** min(attempts - 1, 20), between[1])


class Router:
    def __init__(self, options: dict[str, Any]) -> None:
        self.hooks = {hook["url"]: str(hook.get("token") or "") for hook in options.get("PacsWebhooks") or []}
        hooks = [{**hook, "to": hook["url"]} for hook in options.get("PacsWebhooks") or []]
        self.routes: list[dict[str, Any]] = [*(options.get("PacsRoutes") or []), *hooks]
        self.name, self.authorities = options.get("Name", ""), options.get("HttpsCACertificates", "")
        self.calls: dict[str, Call] = {}
        self.destinations = list(dict.fromkeys(route["to"] for route in self.routes))
        self.age = float(options.get("StableAge") or 60)
        self.path = os.path.join(options.get("IndexDirectory") or options["StorageDirectory"], FILE)
        self.problem, self.begun = "It has not begun.", False
        # Whether something is on its way.
        self.busy = False
        self.stopping = threading.Event()
        self.again = threading.Event()
        self.parent = functools.lru_cache(10_000)(self._parent)
        # Changes beyond the position that are done, and since when.
        self.ahead: dict[int, float] = {}
        # Since when nothing has come to a study, until when a study or a destination is not tried, and how often in a
        # row it was in vain: by a clock that starts anew with Orthanc, which is a time to try.
        self.touched: dict[str, float] = {}
        self.unread: dict[str, str] = {}
        self.due: dict[tuple[str, str], float] = {}
        self.paused: dict[str, float] = {}
        self.vain: dict[str, int] = {}
        # How many images of a study are sent at a time, once some were refused.
        self.size: dict[tuple[str, str], int] = {}
        # What Orthanc says of jobs, also of those that it lists no longer.
        self.ended: dict[str, bool] = {}
        self.lost: dict[str, int] = {}

    def open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def run(self) -> None:
        """Go on until Orthanc ends, whatever happens."""
        base = None
        while not self.stopping.is_set():
            try:
                base = base or self.start()
                self.begun = True
                self.tick(base)
                self.problem = ""
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                if told != self.problem:
                    orthanc.LogError(f"orthanc_routes: {told}; what is to be sent is kept, and tried again")
                self.problem = told
                self.stopping.wait(5 * TICK)
            self.stopping.wait(SOON if self.busy else TICK)
        if base:
            base.close()

    def start(self) -> sqlite3.Connection:
        """Open the file; what was there before the first route is not sent."""
        with contextlib.ExitStack() as stack:
            base = stack.enter_context(contextlib.closing(self.open()))
            os.chmod(self.path, 0o600)
            base.executescript(SCHEMA)
            last = ask("/changes?last")["Last"]
            with base:
                if not base.execute("SELECT 1 FROM position").fetchone():
                    base.execute("INSERT INTO position VALUES (?)", (last,))
                # An index that was brought back from a backup counts from there.
                base.execute("UPDATE position SET change = ? WHERE change > ?", (last, last))
                for (name,) in base.execute("SELECT DISTINCT destination FROM waiting").fetchall():
                    if name not in self.destinations:
                        gone = base.execute("DELETE FROM waiting WHERE destination = ?", (name,)).rowcount
                        orthanc.LogWarning(
                            f"orthanc_routes: {name} is no destination any more, {gone} studies are not sent"
                        )
                for table in ("images", "routed"):
                    marks = ", ".join("?" * len(self.destinations))
                    base.execute(f"DELETE FROM {table} WHERE destination NOT IN ({marks})", self.destinations)
            stack.pop_all()
            return base

    def tick(self, base: sqlite3.Connection) -> None:
        if self.again.is_set():
            self.again.clear()
            self.due.clear()
            self.paused.clear()
        # All jobs of ours are known here; of others nothing is asked.
        ours = {job for (job,) in base.execute("SELECT job FROM waiting WHERE job <> ''")}
        for job in [job for job in list(self.ended) if job not in ours]:
            del self.ended[job]
        self.follow(base)
        self.settle(base)
        for name in self.destinations:
            self.deliver(base, name)
        self.busy = bool(base.execute("SELECT 1 FROM waiting WHERE job <> '' LIMIT 1").fetchone())

    # What has arrived

    def _parent(self, series: str) -> str:
        return str(ask(f"/series/{series}")["ParentStudy"])

    def study(self, instance: str) -> str:
        """Return the study of an image; empty if it is gone already."""
        try:
            return self.parent(ask(f"/instances/{instance}")["ParentSeries"])
        except Gone:
            return ""

    def follow(self, base: sqlite3.Connection) -> None:
        """Read the log of changes up to its end."""
        position = cursor = base.execute("SELECT change FROM position").fetchone()[0]
        done = False
        while not done and not self.stopping.is_set():
            page = ask(f"/changes?since={cursor}&limit={PAGE}")
            new = [change for change in page["Changes"] if change["Seq"] not in self.ahead]
            cursor = max([cursor, *(change["Seq"] for change in page["Changes"])])
            done = page["Done"] or not page["Changes"]
            images = [change["ID"] for change in new if change["ChangeType"] == "NewInstance"]
            arrived = [(image, study) for image in images for study in [self.study(image)] if study]
            position, ahead = self.advance(
                position, self.ahead | dict.fromkeys((change["Seq"] for change in new), time.monotonic())
            )
            if new or ahead != self.ahead:
                with base:
                    base.executemany("INSERT OR REPLACE INTO arrived VALUES (?, ?)", arrived)
                    base.execute("UPDATE position SET change = ?", (position,))
            self.ahead = ahead
            self.touched |= dict.fromkeys((study for _image, study in arrived), time.monotonic())

    def advance(self, position: int, ahead: dict[int, float]) -> tuple[int, dict[int, float]]:
        """Return up to where all changes are done, and which are beyond."""
        for change in sorted(ahead):
            # Several connections to one index commit in another order than they count, and what is deleted is no change
            # any more.
            if change != position + 1 and time.monotonic() - ahead[change] < GAP:
                break
            position = change
            del ahead[change]
        return position, ahead

    # Where it goes

    def settle(self, base: sqlite3.Connection) -> None:
        """Find out where studies go to which nothing comes any more."""
        for (study,) in base.execute("SELECT DISTINCT study FROM arrived").fetchall():
            now = time.monotonic()
            if now - self.touched.setdefault(study, now) < self.age or self.stopping.is_set():
                continue
            try:
                self.route(base, study)
                del self.touched[study]
                self.unread.pop(study, None)
            except Exception as error:
                self.touched[study] = now
                self.unread[study] = f"Study {study} cannot be looked at: {error!r}"
                orthanc.LogError(f"orthanc_routes: study {study} is looked at again later: {error!r}")

    def route(self, base: sqlite3.Connection, study: str) -> None:
        new = {image for (image,) in base.execute("SELECT instance FROM arrived WHERE study = ?", (study,))}
        series = images_of(study).values()
        first = [images[0] for images in series]
        tags = [ask(f"/instances/{image}/simplified-tags") for image in first]
        known = ask("/modalities?expand")
        modalities = {(one["AET"], one["Host"]): name for name, one in known.items() if name in self.destinations}
        # A series may have come by several ways. What modality has sent each image, where it could have sent some.
        senders: dict[str, str] = {}
        for images in series:
            if modalities and any(self.sender(image) in modalities for image in (images[0], *new.intersection(images))):
                senders |= {image: modalities.get(self.sender(image), "") for image in images}
        with base:
            for name in self.destinations:
                rules = [route for route in self.routes if route["to"] == name]
                key = (name, study)
                before = base.execute("SELECT 1 FROM routed WHERE destination = ? AND study = ?", key).fetchone()
                # What has begun is completed, whatever comes.
                if not before and not any(fits(rule, one) for one in tags for rule in rules):
                    continue
                base.execute("INSERT OR IGNORE INTO routed (destination, study) VALUES (?, ?)", key)
                images = [
                    image
                    for found in series
                    for image in found
                    # What it has sent it has itself.
                    if (image in new or not before) and senders.get(image) != name
                ]
                if images:
                    base.execute(
                        "INSERT OR IGNORE INTO waiting (destination, study, since) VALUES (?, ?, ?)",
                        (*key, time.time()),
                    )
                    # One that is on its way, and has come anew, goes again.
                    base.executemany(
                        "INSERT OR REPLACE INTO images (destination, study, instance) VALUES (?, ?, ?)",
                        [(*key, image) for image in images],
                    )
                    self.due.pop(key, None)
            base.executemany("DELETE FROM arrived WHERE instance = ?", [(image,) for image in new])

    def sender(self, instance: str) -> tuple[str, str]:
        """Return title and address of the modality that has sent an image; of other ways in nothing."""
        told = ask(f"/instances/{instance}/metadata?expand")
        return told.get("RemoteAET", ""), told.get("RemoteIP", "")

    # How it gets there

    def deliver(self, base: sqlite3.Connection, name: str) -> None:
        """See what has become of the study that goes to a destination, or send the next one."""
        mine = "SELECT study, job, attempts FROM waiting WHERE destination = ?"
        running = base.execute(f"{mine} AND job <> ''", (name,)).fetchone()
        if running:
            study, job, attempts = running
            state, told = self.state(job)
            if state == "Success":
                self.delivered(base, name, study)
            elif state == "Lost":
                with base:
                    base.execute("UPDATE waiting SET job = '' WHERE destination = ? AND study = ?", (name, study))
            elif state == "Failure":
                alone = self.narrow(base, name, study, told)
                self.failed(base, name, study, attempts + 1, told, alone)
            else:
                return
            self.ended.pop(job, None)
            self.lost.pop(job, None)
        now = time.monotonic()
        if now < self.paused.get(name, 0):
            return
        # Those that were refused stand behind, lest they keep others from being tried.
        for study, _job, attempts in base.execute(f"{mine} ORDER BY attempts, since", (name,)).fetchall():
            if now >= self.due.get((name, study), 0):
                try:
                    self.send(base, name, study)
                except Exception as error:
                    self.failed(base, name, study, attempts + 1, f"{type(error).__name__}: {error}")
                break

    def state(self, job: str) -> tuple[str, str]:
        """Return the state of a job, and its error."""
        if job.startswith(CALL):
            call = self.calls.get(job)
            if not call:
                # Orthanc was ended meanwhile, and nobody knows what has become of it.
                return "Lost", ""
            if call.thread.is_alive():
                return "Running", ""
            del self.calls[job]
            return "Success" if call.error is None else "Failure", call.error or ""
        try:
            found = ask(f"/jobs/{job}")
        except Gone:
            # It is in the history no longer, or Orthanc was killed before it had written it down.
            if job in self.ended:
                return "Success" if self.ended[job] else "Failure", "Orthanc does not say why"
            self.lost[job] = self.lost.get(job, 0) + 1
            return "Lost" if self.lost[job] > 3 else "Unknown", ""
        told = ". ".join(filter(None, (str(found.get(key) or "") for key in ("ErrorDescription", "ErrorDetails"))))
        return found["State"], told

    def send(self, base: sqlite3.Connection, name: str, study: str) -> None:
        """Have a job send what waits of a study."""
        key = (name, study)
        there = {image for found in images_of(study).values() for image in found}
        where = "FROM images WHERE destination = ? AND study = ?"
        waiting = [image for (image,) in base.execute(f"SELECT instance {where}", key)]
        with base:
            gone = [(*key, image) for image in waiting if image not in there]
            base.executemany(f"DELETE {where} AND instance = ?", gone)
        if gone:
            orthanc.LogWarning(
                f"orthanc_routes: {len(gone)} images of study {study} were removed here before {name} got them"
            )
        (tries,) = base.execute(f"SELECT MIN(tries) {where}", key).fetchone()
        if tries is None:
            # They were deleted meanwhile.
            self.delivered(base, name, study)
            return
        # What has come since others were refused goes first, and all of it.
        few = self.size.get(key, -1) if tries else -1
        rows = base.execute(f"SELECT instance {where} AND tries = ? ORDER BY rowid LIMIT ?", (*key, tries, few))
        images = [image for (image,) in rows]
        # Where this cannot be written, nothing is sent: it would be again and again.
        with base:
            base.execute(f"UPDATE images SET sending = 0 {where.removeprefix('FROM images ')}", key)
            base.executemany(
                "UPDATE images SET sending = 1 WHERE destination = ? AND study = ? AND instance = ?",
                [(*key, image) for image in images],
            )
        if name in self.hooks:
            tags = ask(f"/studies/{study}")["MainDicomTags"]
            uids = {tag: tags.get(tag, "") for tag in ("StudyInstanceUID", "AccessionNumber")}
            told = {"Event": "NewImages", "Orthanc": self.name, "Study": study, "Images": len(images), **uids}
            job = f"{CALL}{uuid.uuid4()}"
            self.calls[job] = Call(name, self.hooks[name], self.authorities, told)
        else:
            kind = "modalities" if name in ask("/modalities") else "peers"
            job = ask(f"/{kind}/{name}/store", {"Resources": images, "Synchronous": False})["ID"]
        with base:
            base.execute("UPDATE waiting SET job = ? WHERE destination = ? AND study = ?", (job, *key))

    def delivered(self, base: sqlite3.Connection, name: str, study: str) -> None:
        """Take out what has arrived there; what has come meanwhile goes next."""
        key = (name, study)
        with base:
            base.execute("DELETE FROM images WHERE destination = ? AND study = ? AND sending", key)
            if base.execute("SELECT 1 FROM images WHERE destination = ? AND study = ? LIMIT 1", key).fetchone():
                base.execute("UPDATE waiting SET job = '' WHERE destination = ? AND study = ?", key)
            else:
                base.execute("DELETE FROM waiting WHERE destination = ? AND study = ?", key)
                self.size.pop(key, None)
        self.due.pop(key, None)
        self.vain.pop(name, None)
        if key in self.size:
            self.size[key] = min(2 * self.size[key], 1_000_000)

    def narrow(self, base: sqlite3.Connection, name: str, study: str, told: str) -> bool:
        """Have less sent at a time, and what was refused last, lest one image keep the others of its study waiting.

        Return whether an image is refused by itself.
        """
        key = (name, study)
        if name in self.hooks or AWAY in told:
            return False
        with base:
            which = "WHERE destination = ? AND study = ? AND sending"
            count = base.execute(f"UPDATE images SET tries = tries + 1 {which}", key).rowcount
            if count == 1:
                base.execute(f"UPDATE images SET tries = MAX(tries, ?) {which}", (ALONE, *key))
        self.size[key] = max(1, count // 2)
        return count == 1

    def failed(
        self, base: sqlite3.Connection, name: str, study: str, attempts: int, told: str, alone: bool = False
    ) -> None:
        """Note it, and let others be tried before it is again.

        :param alone: whether it is an image that is refused by itself, of which nobody else has the blame.
        """
        now = time.monotonic()
        if not alone:
            self.vain[name] = self.vain.get(name, 0) + 1
            self.paused[name] = now + later(self.vain[name], DESTINATION_AGAIN)
        # First of all: where nothing can be written, it is not tried at once, either.
        self.due[name, study] = now + later(attempts, ALONE_AGAIN if alone else AGAIN)
        with base:
            base.execute(
                "UPDATE waiting SET job = '', attempts = ?, error = ? WHERE destination = ? AND study = ?",
                (attempts, told[:500], name, study),
            )
        which = "FROM images WHERE destination = ? AND study = ? AND tries BETWEEN 1 AND ?"
        # While it is found out which images are refused, the others need not wait for long.
        if base.execute(f"SELECT 1 {which} LIMIT 1", (name, study, ALONE - 1)).fetchone():
            del self.due[name, study]
        orthanc.LogWarning(f"orthanc_routes: study {study} to {name}, attempt {attempts}: {told}")

    # What an operator sees, and ends

    def drop(self, name: str, study: str) -> bool:
        """Have a study wait no longer; return whether it did."""
        key = (name, study)
        with contextlib.closing(self.open()) as base, base:
            base.execute("DELETE FROM images WHERE destination = ? AND study = ?", key)
            dropped = base.execute("DELETE FROM waiting WHERE destination = ? AND study = ?", key).rowcount
        if dropped:
            orthanc.LogWarning(
                f"orthanc_routes: study {study} is not sent to {name} any more, as somebody has asked for"
            )
        return bool(dropped)

    def told(self) -> dict[str, Any]:
        """Say what waits, and what has failed: how much for each destination, and the first ones by name."""
        problem = self.problem or next(iter(list(self.unread.values())), "")
        found: dict[str, Any] = {"Problem": problem, "Arriving": 0, "Destinations": {}, "Waiting": []}
        if not self.begun:
            return found
        with contextlib.closing(self.open()) as base:
            found["Arriving"] = base.execute("SELECT COUNT(DISTINCT study) FROM arrived").fetchone()[0]
            for name in self.destinations:
                studies, failed, since = base.execute(
                    "SELECT COUNT(*), TOTAL(attempts > 0), MIN(since) FROM waiting WHERE destination = ?", (name,)
                ).fetchone()
                images = base.execute("SELECT COUNT(*) FROM images WHERE destination = ?", (name,)).fetchone()[0]
                found["Destinations"][name] = {
                    "Studies": studies,
                    "Images": images,
                    "Failed": int(failed),
                    "Seconds": round(max(0.0, time.time() - since)) if studies else 0,
                }
            rows = "SELECT destination, study, since, attempts, error FROM waiting ORDER BY attempts = 0, since LIMIT ?"
            for name, study, since, attempts, error in base.execute(rows, (LISTED,)).fetchall():
                when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
                found["Waiting"].append(
                    {"To": name, "Study": study, "Since": when, "Attempts": attempts, "Error": error}
                )
        return found


router = Router(json.loads(orthanc.GetConfiguration()))
thread = threading.Thread(target=router.run, name="pacs_routes", daemon=True)


def changed(change: int, _level: int, resource: str) -> None:
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        thread.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        router.stopping.set()
        if thread.is_alive():
            thread.join()
        for call in router.calls.values():
            call.thread.join(5)
    elif change in (orthanc.ChangeType.JOB_SUCCESS, orthanc.ChangeType.JOB_FAILURE):
        router.ended[resource] = change == orthanc.ChangeType.JOB_SUCCESS


def answer(output: Any, _uri: str, **request: Any) -> None:
    """GET tells what waits; POST has all of it tried at once."""
    if request["method"] not in ("GET", "POST"):
        output.SendMethodNotAllowed("GET,POST")
        return
    if request["method"] == "POST":
        router.again.set()
    output.AnswerBuffer(json.dumps(router.told(), indent=2, ensure_ascii=False) + "\n", "application/json")


def drop(output: Any, _uri: str, **request: Any) -> None:
    """POST has one study wait no longer."""
    if request["method"] != "POST":
        output.SendMethodNotAllowed("POST")
        return
    try:
        asked = json.loads(request["body"])
        done = router.drop(str(asked["To"]), str(asked["Study"]))
    except (KeyError, TypeError, ValueError):
        done = False
    if done:
        output.AnswerBuffer("{}\n", "application/json")
    else:
        output.SendHttpStatusCode(404)


orthanc.RegisterOnChangeCallback(changed)
orthanc.RegisterRestCallback("/pacs/routes/drop", drop)
orthanc.RegisterRestCallback("/pacs/routes", answer)
