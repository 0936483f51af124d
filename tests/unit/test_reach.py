"""What SSH, sudo and login shells say is not what a command says, whatever they say and in which language."""

from __future__ import annotations

import pathlib
import shutil
import socket
import tempfile
import time

import pytest

from verification import reach
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


REFUSED = "kex_exchange_identification: Connection closed by remote host"


def refusing(programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch, times: int, complaint: str) -> pathlib.Path:
    """An ssh that does not get in for so many times; each time is a line in the file that is returned."""
    monkeypatch.setattr(reach, "PAUSES", (0.0, 0.0, 0.0))
    asked = programs.parent / "asked"
    ssh = (programs / "ssh").read_text(encoding="utf-8")
    refusal = f"echo >> {asked}; [ $(wc -l < {asked}) -gt {times} ] || {{ echo '{complaint}' >&2; exit 255; }}\n"
    write(programs / "ssh", ssh.replace("#!/bin/sh\n", f"#!/bin/sh\n{refusal}"))
    return asked


def test_host_that_is_busy_is_asked_again(programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refusing(programs, monkeypatch, 2, REFUSED)
    made = host(programs)
    assert made.check_output("echo said") == "said"
    assert asked.read_text(encoding="utf-8") == "\n" * 3


def test_host_that_stays_busy_is_told(programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refusing(programs, monkeypatch, 99, REFUSED)
    with pytest.raises(Unexpected, match=rf"got '{REFUSED}' \(tried 4 times\); see ansible_host"):
        host(programs).run("true")
    assert asked.read_text(encoding="utf-8") == "\n" * 4


def test_who_may_not_get_in_does_not_try_again(programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refusing(programs, monkeypatch, 99, "deploy@pacs: Permission denied (publickey).")
    with pytest.raises(Unexpected, match=r"got 'deploy@pacs: Permission denied \(publickey\).'; see"):
        host(programs).run("true")
    assert asked.read_text(encoding="utf-8") == "\n"


def test_what_was_begun_is_not_begun_again(programs: pathlib.Path) -> None:
    done = programs.parent / "done"
    lost = "echo 'client_loop: send disconnect: Connection reset by peer' >&2; exit 255"
    write(programs / "ssh", SSH.format(run=f'sh -c "$last" 2> /dev/null | head -n 1; {lost}'))
    with pytest.raises(Unexpected, match="got 'client_loop: send disconnect: Connection reset by peer'; see"):
        host(programs).run(f"echo >> {done}")
    assert done.read_text(encoding="utf-8") == "\n"


def test_host_that_hangs_after_the_login(programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, once."""
    monkeypatch.setattr(reach, "DEADLINE", 0.5)
    write(programs / "ssh", "#!/bin/sh\nexec sleep 600\n")
    made, begin = host(programs), time.monotonic()
    for _ in range(2):
        with pytest.raises(Unexpected, match=r"got none for 0 s \(a disk of that host may hang\); see"):
            made.run("true")
    assert time.monotonic() - begin < 300


@pytest.mark.parametrize("length", [0, 60, 120])
def test_one_connection_for_all_commands(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """As ssh itself understands it, whatever Ansible's configuration says; where a socket's path can be that long."""
    real = shutil.which("ssh")
    top = tempfile.TemporaryDirectory(dir="/tmp")
    request.addfinalizer(top.cleanup)
    private = pathlib.Path(top.name) / ("x" * length or ".")
    private.mkdir(exist_ok=True)
    programs, told = tmp_path / "bin", tmp_path / "told"
    programs.mkdir()
    write(programs / "ssh", f'#!/bin/sh\n{real} -G -F none "$@" > {told}\nfor last; do :; done\nsh -c "$last"\n')
    write(programs / "sudo", SUDO.format(run='exec "$@"'))
    configuration = tmp_path / "ansible.cfg"
    configuration.write_text(
        "[ssh_connection]\nssh_args = -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=99\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("ANSIBLE_CONFIG", str(configuration))
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    described = {"ansible_ssh_common_args": "-o ServerAliveCountMax=7", "ansible_user": "deploy"}
    made = Host("a-host-with-a-long-name.of-a-long-department.of-a-hospital.example", described, private)
    assert made.check_output("echo said") == "said"
    options = dict(line.split(" ", 1) for line in told.read_text(encoding="utf-8").splitlines() if " " in line)
    assert options["serveralivecountmax"] == "7", "the inventory comes first"
    assert options["serveraliveinterval"] == "15"
    path = options.get("controlpath", "none")
    # ssh writes to a path with 17 characters more first.
    assert len(path) + 17 < 104
    if length < 100:
        assert path.startswith(str(private))
        assert options["controlpersist"] == "10"
    else:
        assert path == "none"


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
