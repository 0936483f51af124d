"""Change the plugins' code in one place, at random, many times over, and tell which changes no unit test notices.

The mutants are Cosmic Ray's, by all of its operators that need no argument, drawn from all that they can do to the
files. Each is tried in a copy of the tree, with those tests alone that run its line. Left out, by rule, is what is no
other program: what does not compile, and what is the same without docstrings and annotations, which nobody evaluates.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import difflib
import functools
import itertools
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import coverage
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOAL = 85
# What no test of the unit tests needs, or what only runs leave behind.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".cache", ".ansible", ".*_cache", ".hypothesis", "__pycache__")
MEASURE = """\
[run]
parallel = true
data_file = {data}
source = {tree}/plugins
context = ${{PYTEST_CURRENT_TEST-}}
concurrency = multiprocessing, thread
patch = _exit
disable_warnings = no-data-collected, module-not-imported, module-not-measured
"""
# What a mutant removes, or closes to others, is not this machine's where root runs it: it may write to its own folder
# and to what is in memory.
SHELTER = """\
mount --make-rprivate /
for folder in "$1" /dev /run; do mount --rbind "$folder" "$folder"; done
mount -o remount,bind,ro /
shift
exec "$@"
"""
# By line of a file: the tests that run it, those that take the least time first.
Tests = dict[int, list[str]]


def mutants(files: list[pathlib.Path]) -> Iterator[tuple[pathlib.Path, str, int, int]]:
    """Return all that can be done to some files: with which operator, at which of its places, in which line."""
    operators = {name: get_operator(name) for name in operator_names() if not get_operator(name).arguments()}
    for path in files:
        nodes = list(ast_nodes(get_ast(path.read_text("utf-8"))))
        for name, operator in operators.items():
            places = [start for node in nodes for start, _end in operator().mutation_positions(node)]
            yield from ((path, name, number, line) for number, (line, _column) in enumerate(places))


def meaning(code: str) -> str:
    """Return what a program does, without what nobody evaluates; nothing if it does not compile."""
    try:
        tree = ast.parse(code)
        compile(tree, "mutant", "exec")
    except (SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None):
                setattr(node, field, ast.Constant(None))
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant(None)
    return ast.dump(tree)


def drawn(files: list[pathlib.Path], seed: int) -> Iterator[tuple[pathlib.Path, int, str]]:
    """Return the mutants that are other programs, in an order by chance: the file, the line, the file's new text."""
    every = list(mutants(files))
    print(f"{len(every)} mutants of {len(files)} files, seed {seed}", flush=True)
    random.Random(seed).shuffle(every)
    for path, operator, place, line in every:
        code, mutant = path.read_text("utf-8"), ""
        # Of an exception of another module (`sqlite3.Error`) it can make no other.
        with contextlib.suppress(AttributeError):
            mutant = mutate_code(code, get_operator(operator)(), place)
        if meaning(mutant) not in (meaning(""), "", meaning(code)):
            yield path, line, mutant


@functools.cache
def sheltered(folder: pathlib.Path) -> list[str]:
    """Return what a command begins with that may write to a folder only; nothing where that cannot be had."""
    shelter = ["unshare", "--mount", "sh", "-euc", SHELTER, "sh", str(folder)]
    return shelter if subprocess.run([*shelter, "true"], check=False, capture_output=True).returncode == 0 else []


def run(tree: pathlib.Path, tests: list[str], seconds: float | None, **environment: str) -> int:
    """Run tests in a copy of the tree, and return pytest's exit code, or 1 if they do not end in time."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "sitecustomize", "-W", "ignore::pytest.PytestAssertRewriteWarning"] if environment else ["-x"]
    # Tests have names with spaces and quotes in them, and are many.
    (tree / "tests.txt").write_text("\n".join(tests), "utf-8")
    own = {name: str(tree.parent / name.lower()) for name in ("HOME", "TMPDIR", "ANSIBLE_REMOTE_TMP")}
    for folder in own.values():
        os.makedirs(folder, exist_ok=True)
    process = subprocess.Popen(
        [*sheltered(tree.parent), *command, "@tests.txt"],
        cwd=tree,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own | environment,
        stdout=subprocess.DEVNULL if seconds else None,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # A loop without end must not take the machine's memory.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30)),
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return 1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measured(tree: pathlib.Path, tests: list[str]) -> tuple[coverage.CoverageData, dict[str, float]]:
    """Run the tests on the code as it is, and return which runs which lines, and for how many seconds."""
    folder = tree.parent / "measured"
    folder.mkdir()
    (folder / "rc").write_text(MEASURE.format(data=folder / "data", tree=tree), "utf-8")
    path = os.pathsep.join([str(HERE), str(pathlib.Path(coverage.__file__).parents[1])])
    wanted = {"PYTHONPATH": path, "COVERAGE_PROCESS_START": str(folder / "rc"), "MUTANTS_TIMES": str(folder / "times")}
    run(tree, tests, None, **wanted)
    took: dict[str, float] = collections.defaultdict(float)
    lines = [json.loads(line) for line in (folder / "times").read_text("utf-8").splitlines()]
    for test, seconds, _failed in lines:
        took[test] += seconds
    # One that is about time may fail while it is measured. It would kill every mutant.
    for test in {test for test, _seconds, failed in lines if failed}:
        print(f"left out, since it fails without any mutant: {took.pop(test):.0f} s, {test}")
    whole = coverage.Coverage(data_file=str(folder / "data"))
    whole.combine()
    return whole.get_data(), took


def statement(code: str, line: int) -> tuple[range, bool]:
    """Return the lines of the smallest statement at a line, without its body, and whether it stands in a function."""
    found, inside = range(line, line + 1), False
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, (ast.stmt, ast.excepthandler)) or not node.lineno <= line <= (node.end_lineno or 0):
            continue
        body = getattr(node, "body", None)
        last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or 0
        # From the outermost to the innermost.
        if line <= last:
            found = range(node.lineno, last + 1)
        elif isinstance(node, ast.FunctionDef):
            inside = True
    return found, inside


def tests_of(data: coverage.CoverageData, took: dict[str, float], path: pathlib.Path, line: int) -> list[str]:
    """Return the tests that run a line, the quickest first; what is run at import, as a limit is, any test may read."""
    by_line = {
        number: {re.sub(r" \(\w+\)$", "", context) for context in contexts}
        for number, contexts in data.contexts_by_lineno(str(path)).items()
    }
    lines, inside = statement(path.read_text("utf-8"), line)
    own = set().union(*(by_line.get(number, set()) for number in lines))
    rest: set[str] = set()
    if "" in own or not inside:
        # Any of a file that has to do with this one.
        files = {test.partition("::")[0] for test in set().union(*by_line.values()) & took.keys()}
        rest = {test for test in took if test.partition("::")[0] in files} - own
    return [test for some in (own, rest) for test in sorted(some & took.keys(), key=lambda test: took[test])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=15)
    parser.add_argument("--number", type=int, default=200, help="how many mutants")
    parser.add_argument("--tests", nargs="+", default=["tests/unit"], help="the tests that have to notice them")
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="files below plugins/, instead of all")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = pathlib.Path(folder, "tree")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=LEFT_OUT)
        collection = tree / ".cache" / "collections" / "ansible_collections" / "dicom" / "orthanc"
        collection.parent.mkdir(parents=True)
        collection.symlink_to(tree)
        data, took = measured(tree, given.tests)
        files = [tree / path for path in given.files] or sorted(tree.glob("plugins/**/*.py"))
        count, killed, chosen = 0, 0, itertools.islice(drawn(files, given.seed), given.number)
        for count, (path, line, mutant) in enumerate(chosen, 1):
            code, name = path.read_text("utf-8"), path.relative_to(tree)
            tests = tests_of(data, took, path, line)
            path.write_text(mutant, "utf-8")
            # Three times what they take, and what pytest needs to start.
            dead = bool(tests and run(tree, tests, 60 + 3 * sum(took[test] for test in tests)))
            killed += dead
            path.write_text(code, "utf-8")
            print(f"{count}: {name}:{line} {'killed' if dead else f'SURVIVES {len(tests)} tests'}", flush=True)
            if not dead:
                lines = difflib.unified_diff(code.splitlines(), mutant.splitlines(), n=1, lineterm="")
                print(*list(lines)[2:], sep="\n", flush=True)
        print(f"{killed} of {count} mutants were killed, {100 * killed / count:.1f} %")
        return int(100 * killed < GOAL * count)


if __name__ == "__main__":
    sys.exit(main())
