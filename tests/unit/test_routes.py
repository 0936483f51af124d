"""The script that sends studies on: against an Orthanc of memory, whose clock the tests turn."""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import re
import runpy
import socket
import sqlite3
import ssl
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from tests.repository import ROOT
from tests.unit.good_host import pair

SCRIPT = ROOT / "roles" / "orthanc" / "files" / "pacs_routes.py"
REFUSED = 'DicomAssociation - connecting to AET "OLD": Connection refused'
CT, MR = {"Modality": "CT"}, {"Modality": "MR"}


class OrthancException(Exception):
    pass


class Killed(BaseException):
    """As by kill -9: nothing catches it."""


class Orthanc(types.ModuleType):
    """Orthanc's module, with an archive in which each image is a series of its own, where no other is named."""

    OrthancException = OrthancException
    ChangeType = types.SimpleNamespace(ORTHANC_STARTED=10, ORTHANC_STOPPED=11, JOB_SUCCESS=17, JOB_FAILURE=18)

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__("orthanc")
        self.options: dict[str, Any] = {
            "StorageDirectory": str(folder),
            "StableAge": 60,
            "PacsRoutes": [{"to": "OLD", "when": CT}],
        }
        self.now = 0.0
        self.images: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {}
        self.series: dict[str, str] = {}
        self.changes: list[tuple[int, str]] = []
        self.jobs: dict[str, tuple[str, str, list[str]]] = {}
        self.sent = 0
        self.history = 10
        # Which destinations are away, what they have got, and what is refused.
        self.away: set[str] = set()
        self.got: dict[str, list[str]] = {}
        self.refused: set[str] = set()
        self.broken: list[str] = []
        self.code = 11
        self.said: list[str] = []
        self.dies = ""
        self.LogError = self.LogWarning = self.LogInfo = self.said.append
        self.RegisterOnChangeCallback = lambda callback: setattr(self, "changed", callback)
        self.RegisterRestCallback = lambda _path, callback: setattr(self, "rest", callback)

    def GetConfiguration(self) -> str:
        return json.dumps(self.options)

    def store(self, study: str, image: str, tags: dict[str, Any] | None = None, **sender: str) -> None:
        self.images[image] = (study, CT if tags is None else tags, sender)
        self.changes.append((self.changes[-1][0] + 1 if self.changes else 1, image))

    def of(self, image: str) -> str:
        return self.series.get(image, image)

    def RestApiGet(self, path: str) -> bytes:
        if self.dies and re.match(self.dies, path):
            raise Killed(path)
        if any(re.match(broken, path) for broken in self.broken):
            raise OrthancException(self.code, "Database is away")
        return json.dumps(self._get(path)).encode()

    def _get(self, path: str) -> Any:
        if path.startswith("/modalities"):
            known = {"OLD": {"AET": "OLD", "Host": "192.0.2.8"}, "NEW": {"AET": "NEW", "Host": "192.0.2.9"}}
            return known if path.endswith("?expand") else list(known)
        kind, _, rest = path[1:].partition("/")
        name, _, part = rest.partition("/")
        if path == "/changes?last":
            return {"Last": self.changes[-1][0] if self.changes else 0}
        if kind.startswith("changes"):
            since, limit = map(int, re.findall(r"\d+", path))
            found = [change for change in self.changes if change[0] > since]
            rows = [{"Seq": seq, "ID": image, "ChangeType": "NewInstance"} for seq, image in found[:limit]]
            return {"Changes": rows, "Done": len(found) <= limit}
        if kind == "instances" and name in self.images:
            _study, tags, sender = self.images[name]
            return {"simplified-tags": tags, "metadata?expand": sender, "": {"ParentSeries": self.of(name)}}[part]
        members = [image for image in self.images if self.of(image) == name]
        if kind == "series" and members:
            return {"ParentStudy": self.images[members[0]][0], "Instances": members}
        if kind == "studies" and name in {study for study, _tags, _sender in self.images.values()}:
            series = dict.fromkeys(self.of(image) for image, (study, *_) in self.images.items() if study == name)
            return {"Series": list(series), "MainDicomTags": {"StudyInstanceUID": f"1.2.{name}"}}
        if kind == "jobs" and name in list(self.jobs)[-self.history :] if self.history else ():
            state, told, _images = self.jobs[name]
            return {"State": state, "ErrorDescription": told, "ErrorDetails": ""}
        raise OrthancException(17, "Unknown resource")

    def RestApiPost(self, path: str, body: str) -> bytes:
        kind, name, _store = path[1:].split("/")
        asked = json.loads(body)
        assert asked["Synchronous"] is False, "All of Python would wait"
        job = f"job {len(self.jobs)}"
        missing = [image for image in asked["Resources"] if image not in self.images]
        assert not missing, "Orthanc refuses what has images that are not there"
        self.sent += len(asked["Resources"])
        bad = [image for image in asked["Resources"] if image in self.refused]
        told = "Presentation context refused"
        if name in self.away:
            bad, told = asked["Resources"], 'DicomAssociation - connecting to AET "OLD": Connection refused'
        # Those before the first one that it refuses have arrived.
        taken = asked["Resources"][: asked["Resources"].index(bad[0])] if bad else asked["Resources"]
        self.got.setdefault(f"{kind}/{name}", []).extend(taken)
        self.jobs[job] = ("Failure", told, []) if bad else ("Success", "", [])
        self.changed(self.ChangeType.JOB_FAILURE if bad else self.ChangeType.JOB_SUCCESS, 0, job)
        return json.dumps({"ID": job}).encode()


class Site:
    """An Orthanc, and the script as it is after a start."""

    def __init__(self, orthanc: Orthanc) -> None:
        self.orthanc = orthanc
        self.start()

    def start(self) -> None:
        names = runpy.run_path(str(SCRIPT))
        self.router, self.answer, self.changed = names["router"], names["answer"], names["changed"]
        self.thread, self.drop, self.call = names["thread"], names["drop"], names["Call"]
        self.base = self.router.start()
        self.router.begun = True
        # Nothing here is for ever.
        self.base.execute("PRAGMA synchronous = 0")

    def kill(self) -> None:
        self.base.close()
        self.start()

    def until(self, look: Callable[[], Any]) -> None:
        """Go on until something is so, of which another thread has to do a part."""
        end = time.perf_counter() + 60
        while not look():
            assert time.perf_counter() < end
            self.go(1)
            time.sleep(0.01)

    def go(self, seconds: float, step: float = 1.0) -> None:
        end = self.orthanc.now + seconds
        while self.orthanc.now < end:
            self.router.tick(self.base)
            self.orthanc.now += step

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = self.router.told()
        return found

    def got(self, name: str = "modalities/OLD") -> list[str]:
        return sorted(self.orthanc.got.get(name, []))


@pytest.fixture
def site(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Orthanc(tmp_path)
    monkeypatch.setitem(sys.modules, "orthanc", made)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setattr("time.monotonic", lambda: made.now)
    running = Site(made)
    yield running
    running.base.close()


def test_what_fits_goes_once_nothing_more_comes(site: Site) -> None:
    for study, tags in (("a", CT), ("b", MR), ("c", {})):
        site.orthanc.store(study, f"{study}1", tags)
    site.go(50)
    site.orthanc.store("a", "a2", MR)
    site.go(50)
    assert site.got() == []
    assert site.told()["Arriving"] == 1
    site.go(30)
    assert site.got() == ["a1", "a2"], "the whole study goes as soon as one series fits"
    assert site.told() == {
        "Problem": "It has not begun.",
        "Arriving": 0,
        "Destinations": {"OLD": {"Studies": 0, "Images": 0, "Failed": 0, "Seconds": 0}},
        "Waiting": [],
    }


def test_what_was_there_before_stays(site: Site) -> None:
    site.orthanc.store("a", "a1")
    (pathlib.Path(site.router.path)).unlink()
    site.kill()
    site.orthanc.store("b", "b1")
    site.go(100)
    assert site.got() == ["b1"]


def test_late_images_go_alone(site: Site) -> None:
    site.orthanc.store("a", "a1")
    site.go(100)
    site.orthanc.store("a", "a2", {})
    site.go(100)
    assert site.orthanc.got["modalities/OLD"] == ["a1", "a2"]
    site.orthanc.store("b", "b1", MR)
    site.go(100)
    site.orthanc.store("b", "b2")
    site.go(100)
    assert site.got() == ["a1", "a2", "b1", "b2"], "that did not fit before"


def test_a_study_that_fits_no_longer_is_completed(site: Site) -> None:
    """The first image of a series may be another one now."""
    site.orthanc.store("a", "a1")
    site.go(100)
    site.orthanc.images["a1"] = ("a", MR, {})
    site.orthanc.store("a", "a2", MR)
    site.go(100)
    assert site.got() == ["a1", "a2"]


def test_overwritten_images_go_again(site: Site) -> None:
    site.orthanc.store("a", "a1")
    site.go(100)
    site.orthanc.store("a", "a1")
    site.go(100)
    assert site.got() == ["a1", "a1"]


def test_images_that_come_while_a_job_runs_go_next(site: Site) -> None:
    site.orthanc.store("a", "a1")
    site.go(61)
    state = site.router.state
    site.router.state = lambda _job: ("Running", "")
    site.orthanc.store("a", "a1")
    site.orthanc.store("a", "a2")
    site.go(100)
    assert site.got() == ["a1"]
    site.router.state = state
    site.go(10)
    assert site.got() == ["a1", "a1", "a2"]


def test_peers_and_several_destinations(site: Site) -> None:
    site.orthanc.options["PacsRoutes"] += [{"to": "mirror"}, {"to": "NEW", "when": MR}, {"to": "OLD", "when": MR}]
    site.kill()
    site.orthanc.store("a", "a1", MR)
    site.orthanc.store("b", "b1", {"Modality": "US"})
    site.go(100)
    assert site.got("modalities/OLD") == site.got("modalities/NEW") == ["a1"]
    assert site.got("peers/mirror") == ["a1", "b1"]


def test_nobody_gets_back_what_he_has_sent(site: Site) -> None:
    site.orthanc.options["PacsRoutes"].append({"to": "NEW"})
    site.kill()
    site.orthanc.store("a", "a1", CT, RemoteAET="OLD", RemoteIP="192.0.2.8")
    site.orthanc.store("a", "a2", CT, RemoteAET="OLD", RemoteIP="192.0.2.77")
    site.orthanc.store("b", "b1", CT, RemoteAET="NEW", RemoteIP="192.0.2.9")
    site.go(100)
    assert site.got() == ["a2", "b1"]
    assert site.got("modalities/NEW") == ["a1", "a2"]


def test_a_series_may_come_by_several_ways(site: Site) -> None:
    site.orthanc.series = dict.fromkeys(("a1", "a2", "a3", "a4"), "s")
    site.orthanc.store("a", "a1", CT, RemoteAET="OLD", RemoteIP="192.0.2.8")
    site.orthanc.store("a", "a2", CT, RemoteAET="SCANNER", RemoteIP="192.0.2.50")
    site.go(100)
    assert site.got() == ["a2"]
    site.orthanc.store("a", "a3", CT, RemoteAET="SCANNER", RemoteIP="192.0.2.50")
    site.orthanc.store("a", "a4", CT, RemoteAET="OLD", RemoteIP="192.0.2.8")
    site.go(100)
    assert site.got() == ["a2", "a3"]


@pytest.mark.parametrize(
    "when, tags, fits",
    [
        ({}, {}, True),
        ({"Modality": "CT"}, {"Modality": "CT"}, True),
        ({"Modality": "CT"}, {"Modality": "ct"}, False),
        ({"Modality": ["MR", "C?"]}, {"Modality": "CT"}, True),
        ({"Modality": []}, {"Modality": "CT"}, False),
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, {"Modality": "CT"}, False),
        ({"StudyDescription": "Sch\u00e4del*"}, {"StudyDescription": "Sch\u00e4del nativ"}, True),
        ({"StudyDescription": "*[1]*"}, {"StudyDescription": "Head [1] x"}, True),
        ({"StudyDescription": "*[1]*"}, {"StudyDescription": "Head 1 x"}, False),
        ({"ImageType": "PRIMARY"}, {"ImageType": "ORIGINAL\\PRIMARY\\AXIAL"}, True),
        ({"ImageType": "ORIGINAL\\PRIMARY\\*"}, {"ImageType": "ORIGINAL\\PRIMARY\\AXIAL"}, True),
        ({"InstitutionName": ""}, {}, True),
        ({"InstitutionName": ""}, {"InstitutionName": None}, True),
        ({"InstitutionName": ""}, {"InstitutionName": "x"}, False),
        ({"InstitutionName": "x"}, {"InstitutionName": " x "}, True),
        ({"Modality": "*"}, {"Modality": [{"a": "b"}]}, True),
        ({"Modality": "?*"}, {"Modality": [{"a": "b"}]}, False),
    ],
)
def test_tags(site: Site, when: dict[str, Any], tags: dict[str, Any], fits: bool) -> None:
    site.orthanc.options["PacsRoutes"] = [{"to": "OLD", "when": when}]
    site.kill()
    site.orthanc.store("a", "a1", tags)
    site.go(100)
    assert site.got() == (["a1"] if fits else [])


def test_destination_that_is_away_for_an_hour(site: Site) -> None:
    """200 studies arrive meanwhile, with late images, and Orthanc is killed again and again."""
    site.orthanc.away.add("OLD")
    for number in range(200):
        site.orthanc.store(f"s{number}", f"s{number} 1")
        site.go(18, 6)
        if number % 3 == 0:
            site.orthanc.store(f"s{max(0, number - 10)}", f"s{number} late", MR)
        if number % 20 == 0:
            site.kill()
    site.go(120)
    told = site.told()
    assert told["Destinations"]["OLD"]["Studies"] == 200
    assert told["Destinations"]["OLD"]["Images"] == 267
    assert told["Destinations"]["OLD"]["Failed"] > 0
    failed = [row for row in told["Waiting"] if row["Attempts"]]
    assert len(told["Waiting"]) == 200
    assert {row["Error"] for row in failed} == {REFUSED}
    assert len(site.orthanc.jobs) < 400, "an attempt a minute, and no more"
    site.orthanc.away.clear()
    site.go(900)
    assert site.got() == sorted(site.orthanc.images)
    assert site.told()["Waiting"] == []


def test_one_that_is_refused_holds_nobody_up(site: Site) -> None:
    site.orthanc.refused.add("a1")
    for study in "abc":
        site.orthanc.store(study, f"{study}1")
    site.go(100)
    assert site.got() == ["b1", "c1"]
    site.go(6 * 3600, 30)
    (row,) = site.told()["Waiting"]
    assert (row["To"], row["Study"], row["Error"]) == ("OLD", "a", "Presentation context refused")
    assert 7 < row["Attempts"] < 11, "each time after twice as long"
    site.orthanc.refused.clear()
    site.answer(types.SimpleNamespace(AnswerBuffer=lambda *given: None), "/pacs/routes", method="POST")
    site.go(5)
    assert site.got() == ["a1", "b1", "c1"]


def test_image_that_is_refused_keeps_no_other_of_its_study_waiting(site: Site) -> None:
    images = [f"a{number:03}" for number in range(300)]
    for image in images:
        site.orthanc.store("a", image)
    site.orthanc.refused |= {"a000", "a150", "a151"}
    site.go(1800, 2)
    assert set(images) - set(site.got()) == site.orthanc.refused
    site.go(7200, 4)
    assert site.told()["Destinations"]["OLD"]["Images"] == 3
    sent = site.orthanc.sent
    site.go(3600, 4)
    assert site.orthanc.sent - sent < 30, "what has arrived is not sent again"
    site.orthanc.store("a", "late")
    site.go(1200)
    assert "late" in site.got()
    site.orthanc.refused.clear()
    site.router.again.set()
    site.go(600)
    assert set(site.got()) == {*images, "late"}
    assert site.told()["Waiting"] == []
    assert site.router.size == {}


def test_destination_that_is_away_gets_whole_studies(site: Site) -> None:
    site.orthanc.away.add("OLD")
    for number in range(50):
        site.orthanc.store("a", f"a{number}")
    site.go(600)
    site.orthanc.away.clear()
    jobs = len(site.orthanc.jobs)
    site.go(900)
    assert len(site.orthanc.jobs) == jobs + 1
    assert len(site.got()) == 50


def test_image_that_is_refused_by_itself_holds_no_other_study_up(site: Site) -> None:
    for number in range(30):
        site.orthanc.store(f"s{number}", f"refused{number}")
    site.orthanc.refused.update(site.orthanc.images)
    site.go(600)
    site.orthanc.store("good", "good")
    site.go(64)
    assert site.got() == ["good"]
    tried = len(site.orthanc.jobs)
    site.go(24 * 3600, 20)
    assert len(site.orthanc.jobs) - tried < 30 * 10, "once a day in the end"


def test_somebody_ends_what_will_never_be_taken(site: Site) -> None:
    site.orthanc.refused.add("a1")
    site.orthanc.store("a", "a1")
    site.orthanc.store("b", "b1")
    site.go(100)
    answered: list[Any] = []
    output = types.SimpleNamespace(
        AnswerBuffer=lambda *given: answered.append(200),
        SendHttpStatusCode=answered.append,
        SendMethodNotAllowed=answered.append,
    )
    for method, body in (
        ("GET", b""),
        ("POST", b"no JSON"),
        ("POST", b"[]"),
        ("POST", b'{"To": "OLD"}'),
        ("POST", b'{"To": "OLD", "Study": "b"}'),
        ("POST", b'{"To": "OLD", "Study": "a"}'),
    ):
        site.drop(output, "/pacs/routes/drop", method=method, body=body)
    assert answered == ["POST", 404, 404, 404, 404, 200]
    assert site.orthanc.said[-1] == "orthanc_routes: study a is not sent to OLD any more, as somebody has asked for"
    assert site.told()["Waiting"] == []
    site.orthanc.refused.clear()
    site.go(2000)
    assert site.got() == ["b1"]


def test_full_disk_makes_no_jobs(site: Site) -> None:
    site.orthanc.store("a", "a1")
    site.go(59)
    site.router.settle(site.base)
    site.orthanc.now += 2
    site.router.settle(site.base)
    assert site.told()["Destinations"]["OLD"]["Images"] == 1
    site.base.execute("PRAGMA query_only = 1")
    for _tick in range(20):
        with contextlib.suppress(sqlite3.OperationalError):
            site.router.tick(site.base)
        site.orthanc.now += 1
    assert not site.orthanc.jobs
    site.base.execute("PRAGMA query_only = 0")
    site.go(200)
    assert site.got() == ["a1"]


@pytest.mark.parametrize("path", ["/instances/[^/]+$", "/studies", "/series"])
def test_no_other_error_is_taken_for_a_deletion(site: Site, path: str) -> None:
    """Such as a bad sequence of calls, which is number 6."""
    site.orthanc.store("a", "a1")
    site.orthanc.broken, site.orthanc.code = [path], 6
    for _second in range(100):
        with contextlib.suppress(OrthancException):
            site.go(1)
    site.orthanc.broken = []
    site.go(200)
    assert site.got() == ["a1"]


def test_failures_stay_listed_beyond_the_history_of_jobs(site: Site) -> None:
    site.orthanc.history = 2
    for number in range(15):
        site.orthanc.store(f"s{number}", f"i{number}")
    site.orthanc.refused.update(site.orthanc.images)
    site.go(1200, 5)
    assert len([row for row in site.told()["Waiting"] if row["Error"] == "Presentation context refused"]) == 15
    assert site.told()["Destinations"]["OLD"] | {"Seconds": 0} == {
        "Studies": 15,
        "Images": 15,
        "Failed": 15,
        "Seconds": 0,
    }


@pytest.mark.parametrize("history", [0, 1])
def test_history_of_jobs_is_not_needed(site: Site, history: int) -> None:
    site.orthanc.history = history
    for study in "abc":
        site.orthanc.store(study, f"{study}1")
    site.go(100)
    assert site.got() == ["a1", "b1", "c1"]
    assert site.told()["Waiting"] == []
    assert site.router.ended == {}
    site.orthanc.away.add("OLD")
    site.orthanc.store("d", "d1")
    site.go(100)
    assert site.told()["Waiting"][0]["Attempts"] > 0


def test_job_that_a_kill_has_lost_is_made_again(site: Site) -> None:
    site.orthanc.store("a", "a1")
    site.go(60)
    site.router.tick(site.base)
    assert site.got() == ["a1"]
    site.orthanc.jobs.clear()
    site.kill()
    site.go(10)
    assert site.got() == ["a1", "a1"]
    assert site.told()["Waiting"] == []


def test_images_that_were_deleted_are_nobodys_affair(site: Site) -> None:
    site.orthanc.away.add("OLD")
    for image in ("a1", "a2"):
        site.orthanc.store("a", image)
    site.orthanc.store("b", "b1")
    site.orthanc.store("c", "c1")
    del site.orthanc.images["c1"]
    site.go(70)
    del site.orthanc.images["a1"], site.orthanc.images["b1"]
    site.orthanc.away.clear()
    site.go(200)
    assert site.got() == ["a2"]
    assert site.told()["Waiting"] == []
    assert "orthanc_routes: 1 images of study b were removed here before OLD got them" in site.orthanc.said


@pytest.mark.parametrize(
    "path",
    [
        "/changes",
        "/modalities",
        "/instances/[^/]+$",
        "/series",
        "/studies",
        "/instances/[^/]+/(simplified|metadata)",
        "/jobs",
    ],
)
@pytest.mark.parametrize("how", ["throws", "kills"])
def test_whatever_fails_nothing_is_lost(site: Site, path: str, how: str) -> None:
    for study in "ab":
        site.orthanc.store(study, f"{study}1")
    for _second in range(70):
        site.orthanc.broken, site.orthanc.dies = ([path], "") if how == "throws" else ([], path)
        try:
            site.router.tick(site.base)
        except (OrthancException, Killed):
            site.orthanc.broken, site.orthanc.dies = [], ""
            site.kill()
        site.orthanc.now += 1
    site.orthanc.broken, site.orthanc.dies = [], ""
    site.go(300)
    assert set(site.got()) == {"a1", "b1"}
    assert site.told()["Waiting"] == []


def test_what_cannot_be_written_is_read_again(site: Site) -> None:
    """A full disk, say."""
    site.orthanc.store("a", "a1")
    site.base.execute("PRAGMA query_only = 1")
    for _tick in range(3):
        with pytest.raises(sqlite3.OperationalError):
            site.router.tick(site.base)
    site.base.execute("PRAGMA query_only = 0")
    site.go(100)
    assert site.got() == ["a1"]


def test_changes_that_are_committed_later_are_seen(site: Site) -> None:
    """Several connections to one index count in another order than they commit."""
    site.orthanc.store("a", "a1")
    site.go(2)
    site.orthanc.store("b", "b1")
    site.orthanc.store("c", "c1")
    late = site.orthanc.changes.pop(1)
    site.go(20)
    site.orthanc.changes.insert(1, late)
    site.go(100)
    assert site.got() == ["a1", "b1", "c1"]
    # One that was rolled back is waited for, and not for ever.
    site.orthanc.changes.append((9, "a1"))
    site.go(200)
    assert site.got() == ["a1", "a1", "b1", "c1"]
    assert site.base.execute("SELECT change FROM position").fetchone() == (9,)
    assert site.router.ahead == {}


def test_gaps_of_what_was_deleted_are_waited_for_together(site: Site) -> None:
    for number in range(100):
        site.orthanc.store("a", f"a{number}")
    del site.orthanc.changes[::2]
    site.go(40)
    assert site.router.ahead == {}
    site.go(100)
    assert len(site.got()) == 100


def test_study_that_cannot_be_read_is_told(site: Site) -> None:
    site.orthanc.store("a", "a1")
    site.orthanc.broken = ["/instances/a1/simplified-tags"]
    site.go(100)
    site.router.problem = ""
    assert site.told()["Problem"] == "Study a cannot be looked at: OrthancException(11, 'Database is away')"
    site.orthanc.broken = []
    site.go(100)
    assert site.told()["Problem"] == ""
    assert site.got() == ["a1"]


def test_an_index_from_a_backup_counts_anew(site: Site) -> None:
    for number in range(5):
        site.orthanc.store("a", f"a{number}")
    site.go(100)
    del site.orthanc.changes[2:]
    site.kill()
    site.orthanc.store("b", "b1")
    site.go(100)
    assert "b1" in site.got()


def test_destination_that_the_inventory_has_no_longer(site: Site) -> None:
    site.orthanc.away.add("OLD")
    site.orthanc.store("a", "a1")
    site.go(100)
    site.orthanc.options["PacsRoutes"] = [{"to": "NEW"}]
    site.kill()
    assert site.orthanc.said[-1] == "orthanc_routes: OLD is no destination any more, 1 studies are not sent"
    assert site.told()["Waiting"] == []
    assert site.base.execute("SELECT COUNT(*) FROM images").fetchone() == (0,)


class Hook(http.server.BaseHTTPRequestHandler):
    """A server that is told of studies."""

    answers: ClassVar[list[int]] = []
    told: ClassVar[list[tuple[str, str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.told.append((self.path, self.headers.get("Authorization", ""), body))
        self.send_response(self.answers.pop(0) if self.answers else 204)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_given: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    Hook.answers.clear()
    Hook.told.clear()
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_webhook_is_told_until_it_has_answered(site: Site, server: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{server.server_port}/orthanc"
    del site.orthanc.options["PacsRoutes"]
    site.orthanc.options |= {"Name": "Hospital", "PacsWebhooks": [{"url": url, "token": "Secret.1", "when": CT}]}
    site.kill()
    Hook.answers += [500, 302]
    site.orthanc.store("a", "a1")
    site.orthanc.store("a", "a2", MR)
    site.orthanc.store("b", "b1", MR)
    site.go(61)
    site.until(lambda: site.told()["Destinations"][url]["Failed"])
    assert site.told()["Waiting"][0]["Error"] == "HTTP Error 500: Internal Server Error"
    site.until(lambda: site.told()["Waiting"] and site.told()["Waiting"][0]["Attempts"] == 2)
    assert site.told()["Waiting"][0]["Error"].startswith("HTTP Error 302")
    site.until(lambda: not site.told()["Waiting"])
    event = {"Event": "NewImages", "Orthanc": "Hospital", "Study": "a", "Images": 2}
    uids = {"StudyInstanceUID": "1.2.a", "AccessionNumber": ""}
    assert Hook.told == [("/orthanc", "Bearer Secret.1", event | uids)] * 3, "no redirection is followed"
    assert "Secret.1" not in json.dumps(site.told())
    assert not [line for line in site.orthanc.said if "Secret.1" in line]
    assert site.router.calls == {}


def test_webhook_that_a_kill_has_cut_off_is_told_again(site: Site, server: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{server.server_port}/"
    site.orthanc.options["PacsWebhooks"] = [{"url": url}]
    site.kill()
    site.orthanc.store("a", "a1")
    site.go(60)
    site.router.tick(site.base)
    assert len(site.router.calls) == 1
    site.kill()
    site.until(lambda: not site.told()["Waiting"] and len(Hook.told) == 2)
    assert [(path, login) for path, login, _told in Hook.told] == [("/", "")] * 2
    assert site.got() == ["a1"]


def test_webhook_is_known_by_its_certificate(
    site: Site, server: http.server.ThreadingHTTPServer, tmp_path: pathlib.Path
) -> None:
    certificate, key = pair(("127.0.0.1",))
    for name, text in (("server.crt", certificate), ("server.key", key)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    site.orthanc.options["PacsWebhooks"] = [{"url": f"https://127.0.0.1:{server.server_port}/", "token": "Secret.1"}]
    site.kill()
    site.orthanc.store("a", "a1")
    site.go(61)
    site.until(lambda: site.told()["Waiting"] and site.told()["Waiting"][0]["Attempts"])
    assert "CERTIFICATE_VERIFY_FAILED" in site.told()["Waiting"][0]["Error"]
    assert Hook.told == []
    site.orthanc.options["HttpsCACertificates"] = str(tmp_path / "server.crt")
    site.kill()
    site.until(lambda: not site.told()["Waiting"])
    assert len(Hook.told) == 1


class Endless:
    """A server that says a byte now and then, for ever."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning, self.ended, self.came = beginning, threading.Event(), 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(OSError), self.listening.accept()[0] as taken:
                self.came += 1
                taken.sendall(self.beginning)
                while not self.ended.wait(0.02):
                    taken.sendall(b"x")


@pytest.mark.parametrize(
    "scheme, beginning",
    [
        ("http", b""),
        ("http", b"HTTP/1.1 200 OK\r\nX-Never-Ends: "),
        # A record of TLS that is longer than what comes.
        ("https", b"\x16\x03\x03\x3f\xff"),
    ],
)
def test_webhook_that_never_ends_holds_nobody_up(
    site: Site, server: http.server.ThreadingHTTPServer, scheme: str, beginning: bytes
) -> None:
    endless, good = Endless(beginning), f"http://127.0.0.1:{server.server_port}/"
    bad = f"{scheme}://127.0.0.1:{endless.port}/"
    del site.orthanc.options["PacsRoutes"]
    site.orthanc.options["PacsWebhooks"] = [{"url": bad}, {"url": good}]
    site.kill()
    site.call.IN_ALL = 0.5
    for study in ("a", "b"):
        site.orthanc.store(study, f"{study}1")
    site.go(61)
    site.until(lambda: site.told()["Destinations"][bad]["Failed"] == 2)
    assert {row["Error"] for row in site.told()["Waiting"]} == {"it has not answered within 0 s"}
    site.until(lambda: len(Hook.told) == 2)
    assert endless.came >= 2
    for thread in threading.enumerate():
        if thread.name == "pacs_webhook":
            thread.join(60)
            assert not thread.is_alive(), "it is ended"
    endless.ended.set()
    endless.listening.close()


def test_it_goes_on_after_an_error_and_ends_with_orthanc(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[Any] = [OrthancException(11, "away"), OrthancException(11, "away"), None]

    def tick(_base: Any) -> None:
        told.append(site.router.problem)
        found = ticks.pop(0)
        if found:
            raise found
        site.router.stopping.set()

    told: list[str] = []
    monkeypatch.setattr(site.router, "tick", tick)
    monkeypatch.setattr(site.router.stopping, "wait", lambda _seconds: None)
    site.router.run()
    assert told[-1] == "OrthancException: (11, 'away')"
    assert site.router.problem == ""
    assert len([line for line in site.orthanc.said if "away" in line]) == 1, "it is said once"


def test_it_runs_from_start_to_stop(site: Site) -> None:
    answered: list[Any] = []
    output = types.SimpleNamespace(AnswerBuffer=lambda *given: answered.append(json.loads(given[0])))
    site.router.begun = False
    site.answer(output, "/pacs/routes", method="GET")
    assert answered.pop() == {"Problem": "It has not begun.", "Arriving": 0, "Destinations": {}, "Waiting": []}
    site.base.close()
    site.changed(site.orthanc.ChangeType.ORTHANC_STARTED, 0, "")
    end = time.perf_counter() + 60
    while site.router.problem and time.perf_counter() < end:
        time.sleep(0.01)
    site.answer(output, "/pacs/routes", method="GET")
    assert answered.pop()["Destinations"].keys() == {"OLD"}
    site.changed(site.orthanc.ChangeType.ORTHANC_STOPPED, 0, "")
    assert not site.thread.is_alive()


def test_a_file_that_is_none_is_told(site: Site) -> None:
    site.base.close()
    pathlib.Path(site.router.path).write_bytes(b"x" * 5000)
    site.router.stopping.wait = lambda _seconds: site.router.stopping.set()
    site.router.run()
    assert "file is not a database" in site.router.problem


def test_answer(site: Site) -> None:
    site.orthanc.away.add("OLD")
    site.orthanc.store("a", "a1")
    site.go(100)
    answered: list[Any] = []
    output = types.SimpleNamespace(
        AnswerBuffer=lambda *given: answered.append(given), SendMethodNotAllowed=answered.append
    )
    site.answer(output, "/pacs/routes", method="GET")
    text, kind = answered.pop()
    assert kind == "application/json"
    assert json.loads(text)["Waiting"][0]["Error"] == REFUSED
    site.answer(output, "/pacs/routes", method="DELETE")
    assert answered == ["GET,POST"]
