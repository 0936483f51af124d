"""What SSH, sudo and login shells say is not what a command says, whatever they say and in which language."""

from __future__ import annotations

import pathlib
import socket

import pytest

from verification.expect import Unexpected
from verification.reach import Host, expect_open, framed, unframed

# Stands in for ssh: it talks as hosts do, and runs here what was to be run there.
SSH = """#!/bin/sh
echo "Warning: Permanently added 'pacs' (ED25519) to the list of known hosts." >&2
echo 'Nur für Befugte.' >&2
echo 'Grüß Gott! --0--'
for last; do :; done
{run}
code=$?
echo 'Auf Wiedersehen.'
echo 'Shared connection to pacs closed.' >&2
exit $code
"""
SUDO = "#!/bin/sh\n{run}\n"


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("ANSIBLE_CONFIG", "/dev/null")
    write(folder / "ssh", SSH.format(run='sh -c "$last"'))
    write(folder / "sudo", SUDO.format(run='exec "$@"'))
    return folder


def write(program: pathlib.Path, text: str) -> None:
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)


def host(programs: pathlib.Path) -> Host:
    return Host("pacs", {"ansible_connection": "ssh", "ansible_user": "deploy"}, programs.parent)


@pytest.mark.parametrize(
    "command, rc, stdout, stderr",
    [
        ("echo one; echo two", 0, "one\ntwo\n", ""),
        ("printf none", 0, "none", ""),
        ("true", 0, "", ""),
        ("printf 'ä\\n'; echo 'ö' >&2; exit 3", 3, "ä\n", "ö\n"),
        ("echo \"$HOME `id -u`\" '%!{{ x }}' > /dev/null; echo 'a\"b' # end", 0, 'a"b\n', ""),
    ],
)
def test_noise_is_cut_off(programs: pathlib.Path, command: str, rc: int, stdout: str, stderr: str) -> None:
    done = host(programs).run(command)
    assert (done.rc, done.stdout, done.stderr) == (rc, stdout, stderr)


def test_arguments_are_quoted(programs: pathlib.Path) -> None:
    assert host(programs).check_output("printf '%%s|' %s %s", "a b'c", "ü$(id)") == "a b'c|ü$(id)|"


def test_command_that_has_to_succeed(programs: pathlib.Path) -> None:
    with pytest.raises(Unexpected, match=r"exit code of `ls /none` \(.*No such file.*\): expected 0, got 2"):
        host(programs).check_output("ls /none")


def test_programs_of_an_administrator_are_found(programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert "/usr/sbin" in host(programs).check_output("echo $PATH").split(":")


def test_refusal_in_another_language_is_told_once(programs: pathlib.Path) -> None:
    """To read it nobody asks the host for its encoding, which it would refuse alike, without an end."""
    asked = programs.parent / "asked"
    write(programs / "sudo", SUDO.format(run=f"echo >> {asked}; echo 'sudo: Passwort nötig für Grüße' >&2; exit 1"))
    write(programs / "ssh", SSH.format(run='sh -c "$last"').replace("echo 'Shared", "false 'Shared"))
    made = host(programs)
    for _ in range(2):
        with pytest.raises(Unexpected, match="root on pacs: expected its output, got 'sudo: Passwort nötig für Grüße'"):
            made.run("true")
    assert asked.read_text(encoding="utf-8") == "\n"


def test_silent_ssh_is_told(programs: pathlib.Path) -> None:
    write(programs / "ssh", "#!/bin/sh\necho 'ssh: connect to host pacs port 22: Connection timed out' >&2; exit 255\n")
    with pytest.raises(Unexpected, match="Connection timed out'; see ansible_host"):
        host(programs).run("true")


def test_terminal_on_the_way() -> None:
    assert "\n" not in framed("echo a\necho b", "--x--")
    seen = unframed("--x--", "Hi\r\n--x--\r\nsaid\r\n\r\n--x-- 0\r\nBye\r\n", "")
    assert seen
    assert (seen.rc, seen.stdout, seen.stderr) == (0, "said\n", "")
    assert unframed("--x--", "Hi\n", "sudo: no\n") is None
    assert unframed("--x--", "--x--\nsaid, and cut", "") is None


def test_port_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        expect_open("which is ours", "127.0.0.1", port, "nginx_https_port")
    with pytest.raises(Unexpected, match=rf"TCP port {port} of 127.0.0.1, which is ours: .* got 'Connection refused'"):
        expect_open("which is ours", "127.0.0.1", port, "nginx_https_port")

    def silent(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(Unexpected, match=r"got 'silence for 5 s'; see a firewall .* drops .*; nginx_https_port"):
        expect_open("which is ours", "127.0.0.1", port, "nginx_https_port")
