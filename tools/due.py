"""Print which shards of `make test-all` are due: those of which a path has changed since they were green, and how.

Usage: due.py COMMIT [SHARD...] (the shards that are asked for; all where none is named)
"""

import pathlib
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]


def git(*arguments: str) -> str:
    # A clone may belong to another user than the one who asks.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def main(commit: str, *shards: str) -> None:
    table = yaml.safe_load((ROOT / "tests" / "shards.yml").read_text(encoding="utf-8"))
    for shard in shards or table:
        # What several have in common is a list of its own.
        paths = ["--"]
        for entry in table[shard]:
            paths += entry if isinstance(entry, list) else [entry]
        change = git("log", "--max-count=1", "--format=%h %s", f"{commit}..HEAD", *paths)
        if git("status", "--porcelain", *paths):
            change = "what is not committed yet"
        if change:
            print(f"{shard:17} {change}")


if __name__ == "__main__":
    main(*sys.argv[1:])
