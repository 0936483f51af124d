"""How the verification reads what listens on a host, what a process may do, and what time it is there."""

from __future__ import annotations

import time
from typing import Any

import pytest

from verification.hardening import Clock, listeners, privileges, protection
from verification.site import Site

SEEN = """\
udp   UNCONN 0      0             127.0.0.11:45035      0.0.0.0:*
tcp   LISTEN 0      50               0.0.0.0:4242       0.0.0.0:*    users:(("Orthanc",pid=14,fd=5))
tcp   LISTEN 0      200            127.0.0.1:8042       0.0.0.0:*    users:(("Orthanc",pid=14,fd=6))
tcp   LISTEN 0      511              0.0.0.0:443        0.0.0.0:*    users:(("nginx",pid=22,fd=8),("nginx",pid=21,fd=8))
tcp   LISTEN 0      511                 [::]:443           [::]:*    users:(("nginx",pid=22,fd=9),("nginx",pid=21,fd=9))
tcp   LISTEN 0      128     [fe80::1]%eth0:22              [::]:*    users:(("sshd",pid=3,fd=7))
tcp   LISTEN 0      128                    *:9090             *:*    users:(("systemd",pid=1,fd=7))

      1 root
      3 root
     14 orthanc
     21 root
     22 www-data

"""
FILTER = 'table inet orthanc {\n chain input {\n iif != "lo" tcp dport 8042 reject with tcp reset\n }\n}\n'


def test_listeners() -> None:
    found = {one.port: one for one in listeners(SEEN)}
    assert list(found) == [22, 443, 4242, 8042, 9090, 45035]
    assert (found[443].where, found[443].process) == ("443/tcp on 0.0.0.0, [::]", "nginx")
    assert found[443].users == ("root", "www-data")
    assert found[8042].pids == (14,)
    assert [port for port, one in found.items() if one.local] == [8042, 45035]
    assert found[45035].process == "not of this host's processes"
    assert not any(one.filtered for one in found.values())
    assert [one.port for one in listeners(SEEN + FILTER) if one.filtered] == [8042]


def told(port: int, options: dict[str, Any] | None = None, proxy: bool = True, **more: Any) -> str:
    site = Site.__new__(Site)
    values = {"http_port": 8042, "dicom_port": 4242, "url": "https://a/", "plain_port": 80, "relay_port": 0}
    vars(site).update(values | {"dicom_certificate": "", "dicom_asks": True} | more)
    (one,) = (one for one in listeners(SEEN + FILTER) if one.port == port)
    return protection(site, one, options or {}, proxy)


@pytest.mark.parametrize(
    "port, options, more, words",
    [
        (8042, {}, {}, "login, packet filter refuses other hosts, this host alone"),
        (8042, {"AuthenticationEnabled": False}, {}, "none, packet filter refuses other hosts, this host alone"),
        (4242, {"DicomCheckModalityHost": True}, {}, "declared titles, from their addresses"),
        (4242, {"DicomAlwaysAllowStore": True, "DicomCheckModalityHost": True}, {}, "open to any title"),
        (4242, {}, {"dicom_certificate": "PEM"}, "TLS, certificate of the caller, declared titles"),
        (443, {}, {}, "TLS, login"),
        (443, {}, {"proxy": False}, "not of this toolkit"),
        (443, {}, {"proxy": False, "relay_port": 443}, "TLS, the proxy's certificate, login"),
        (22, {}, {}, "not of this toolkit"),
    ],
)
def test_protection(port: int, options: dict[str, Any], more: dict[str, Any], words: str) -> None:
    assert told(port, options, **more) == words


def test_privileges() -> None:
    lines = {"Uid": "100\t100\t100\t100", "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}

    def read(**more: str) -> set[tuple[str, str]]:
        return set(privileges("".join(f"{name}:\t{value}\n" for name, value in (lines | more).items())).items())

    best = read()
    assert best == {
        ("root", "no"),
        ("capabilities", "0"),
        ("may gain privileges", "no"),
        ("system calls", "filtered"),
    }
    assert read(Uid="100\t0\t0\t0") - best == {("root", "yes")}
    assert read(CapBnd=f"{0x400:016x}") - best == {("capabilities", "400")}
    assert read(NoNewPrivs="0") - best == {("may gain privileges", "yes")}
    assert read(Seccomp="0") - best == {("system calls", "all")}


@pytest.mark.parametrize(
    "told_then, answer, apart, words",
    [
        (0.0, "yes\n1\n", 0, "synchronised, 0.0 s"),
        (-60.0, "no\n1\n", 60, "not synchronised, 60.0 s"),
        (60.0, "no\n0\n", 60, "that of the machine around the container, 60.0 s"),
    ],
)
def test_clock(told_then: float, answer: str, apart: float, words: str) -> None:
    asked = time.time()
    clock = Clock.read(f"{asked + told_then:.9f}\n{answer}", asked)
    assert clock.apart == pytest.approx(apart, abs=0.5)
    assert str(clock).startswith(words)
