"""Which paths each shard tests, and which shards a change makes due."""

import pathlib
import re
import shutil

from tests.repository import ROOT, load, run

SHARDS: dict[str, list[str]] = {
    shard: [path for entry in entries for path in (entry if isinstance(entry, list) else [entry])]
    for shard, entries in load("tests/shards.yml").items()
}


def test_every_shard_names_its_paths() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\nSHARDS := {' '.join(SHARDS)}\n" in makefile
    for shard, paths in SHARDS.items():
        listed = ("git", "-c", "safe.directory=*", "ls-files", "--")
        gone = [path for path in paths if not run(*listed, path.removeprefix(":!")).stdout]
        assert not gone, f"{shard} names what is not there: {gone}"
        recipe = makefile.partition(f"\n{shard}: ")[2].partition("\n\n")[0].partition("--ignore")[0]
        assert set(re.findall(r"(?:tests/hosts|tools)/\w+(?:\.py)?\b", recipe)) - {"tests/hosts"} <= set(paths), shard


def test_change_makes_due(tmp_path: pathlib.Path) -> None:
    def git(*arguments: str) -> str:
        done = run("git", "-c", "user.name=x", "-c", "user.email=x", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def change(path: str) -> str:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / path).open("a", encoding="utf-8") as file:
            file.write("new\n")
        git("add", ".")
        git("commit", "--quiet", "--message", f"Change {path}")
        return git("rev-parse", "HEAD")

    def due(*arguments: str) -> dict[str, str]:
        done = run("python", "tools/due.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return {line.split()[0]: line.partition("Change ")[2] for line in done.stdout.splitlines()}

    git("init", "--quiet")
    for name in ("tools/due.py", "tests/shards.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    green = change("README.md")
    assert due(green) == {}
    later = change("verification/side_by_side.py")
    assert due(green)["test-many"] == "verification/side_by_side.py"
    assert "test-mysql" not in due(green)
    assert due(later) == {}
    change("roles/mysql/tasks/main.yml")
    assert due(later, "test-many", "test-mysql") == {"test-mysql": "roles/mysql/tasks/main.yml"}
    assert "test-backup" in due(change("roles/backup/tasks/main.yml") + "~1")
    assert "test-matrix" not in due("HEAD~1"), "its sites have no backups"
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "new").touch()
    assert "test-matrix" in due("HEAD"), "what is not committed yet is a change too"
