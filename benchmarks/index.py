"""Measure how long the dump of an index takes before another release, and its way back.

Usage: python -m benchmarks.index [INSTANCES] [DATABASE ...]     (100,000 and all three; `make bench-index` runs it)

Prints Markdown on standard output, and what it is doing on standard error.
"""

from __future__ import annotations

import re
import sys

from benchmarks.host import say
from tests.hosts.conftest import Lab
from tests.hosts.test_lsb import NEW
from tests.hosts.test_schema import DROP_IN, ONLY_OLD, Site, begin

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}
TABLES = ("MainDicomTags", "DicomIdentifiers", "Metadata", "AttachedFiles")
# How identifiers begin of what is made here.
MADE = "00000000-11111111-22222222-33333333"
SQLITE = """systemctl stop orthanc; python3 -c '
import sqlite3, sys
with sqlite3.connect("/var/lib/orthanc/db-v6/index") as connection:
    for statement in sys.stdin.read().split(";"):
        for row in connection.execute(statement):
            print(*row, sep="|")
' <<'END'
%s
END
systemctl start orthanc"""


def ask(site: Site, statements: str) -> list[str]:
    """Run statements in the index, and return the lines that they answer."""
    if site.database == "sqlite":
        return site.lab.shell(SQLITE % statements).splitlines()
    program = "runuser -u postgres -- psql -qAt" if site.database == "postgresql" else "mariadb -N"
    return site.lab.shell(f"{program} orthanc <<'END'\n{statements};\nEND").splitlines()


def columns(site: Site, table: str) -> list[str]:
    """Return the columns of a table but the first, which has the resource."""
    if site.database == "sqlite":
        return ask(site, f"SELECT name FROM pragma_table_info('{table}') ORDER BY cid")[1:]
    schema = "current_schema()" if site.database == "postgresql" else "DATABASE()"
    where = f"LOWER(table_name) = '{table.lower()}' AND table_schema = {schema}"
    return ask(site, f"SELECT column_name FROM information_schema.columns WHERE {where} ORDER BY ordinal_position")[1:]


def multiply(site: Site, number: int) -> None:
    """Have so many more instances in the index, each with all that one that was sent has there."""
    # Levels are numbered otherwise by plugins than by Orthanc.
    level = "resourceType = (SELECT MAX(resourceType) FROM Resources)"
    template = int(ask(site, f"SELECT MAX(internalId) FROM Resources WHERE {level}")[-1])
    # Without its triggers, each of which would count in the one row that it has for that.
    before = {
        "mysql": f"SET SESSION max_recursive_iterations = {number + 1}",
        "postgresql": "SET session_replication_role = replica",
    }
    statements = [before[site.database]] if site.database in before else []
    statements.append(
        "INSERT INTO Resources (resourceType, publicId, parentId)"
        f" WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})"
        f" SELECT resourceType, CONCAT('{MADE}-', i), parentId FROM n, Resources WHERE internalId = {template}"
    )
    for table in TABLES:
        names = columns(site, table)
        # One that has to be a file's alone.
        taken = [f"CONCAT(r.internalId, '-', t.{name})" if name == "uuid" else f"t.{name}" for name in names]
        statements.append(
            f"INSERT INTO {table} (id, {', '.join(names)}) SELECT r.internalId, {', '.join(taken)}"
            f" FROM Resources r, {table} t WHERE r.publicId LIKE '{MADE}%' AND t.id = {template}"
        )
    ask(site, ";\n".join(statements))


def measure(database: str, number: int) -> str:
    """Return a row of the table."""
    lab = Lab(f"bench-index-{database}", mirror="lsb-mirror", pacs="lsb")
    site = begin(lab, database)
    say(f"{database}: {number} instances")
    multiply(site, number)
    say(f"{database}: another release that does not work")
    lab.shell(f"mkdir {DROP_IN}; cat > {DROP_IN}/test.conf <<'END'\n[Service]\n{ONLY_OLD}\nEND")
    printed = site.play("site", NEW, check=False)
    took = re.search(
        r"\((\d+) MiB\) is dumped.*was dumped to \S+, in (\d+) s\..* is as it was dumped to \S+, after (\d+) s", printed
    )
    if not took:
        sys.exit(printed[-6000:])
    size, there, back = map(int, took.groups())
    lab.destroy()
    told = [NAMES[database], size, there, back, f"{there / size * 1024:.0f}", f"{back / size * 1024:.0f}"]
    return f"| {' | '.join(map(str, told))} |"


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rows = [measure(database, number) for database in sys.argv[2:] or NAMES]
    print("| Index | MiB | Dump, s | Back, s | Dump, s per GiB | Back, s per GiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
