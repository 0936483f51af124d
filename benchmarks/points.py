"""The points of the sweep: what is set otherwise than the shipped playbook sets it."""

from __future__ import annotations

import dataclasses
from typing import Any

PASSWORD = "bench-Hq5tY8vB3gD"
# Read from inventories/, by the database that each of them stands for.
INVENTORIES = {"sqlite": "quickstart", "postgresql": "single", "mysql": "single-mysql"}
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}
SHIPPED, DEFAULTS = "as deployed", "defaults"


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to set Orthanc and its database.

    :param orthanc: options of Orthanc.
    :param plugin: options of the database's plugin.
    :param server: settings of the database server.
    :param durable: whether an image that was acknowledged survives a power cut.
    """

    name: str
    orthanc: dict[str, Any] = dataclasses.field(default_factory=dict)
    plugin: dict[str, Any] = dataclasses.field(default_factory=dict)
    server: dict[str, Any] = dataclasses.field(default_factory=dict)
    durable: bool = True

    def task(self, database: str, login: str) -> dict[str, Any]:
        """Return what benchmarks/point.py has to do."""
        task = dataclasses.asdict(self)
        return task | {
            "database": database,
            "defaults": self.name == DEFAULTS,
            "login": login,
            "password": PASSWORD,
        }


def connections(number: int, **plugin: Any) -> Point:
    return Point(
        f"{number} connection{'s' * (number > 1)}{', socket' * bool(plugin)}",
        plugin={"IndexConnectionsCount": number, **plugin},
        # The roles count them; here they have to be let in.
        server={"max_connections": number + 20} if number > 5 else {},
    )


def uri(rest: str) -> str:
    return f"postgresql://orthanc:{PASSWORD}@{rest}"


POSTGRESQL_SOCKET = {"ConnectionUri": uri("/orthanc?host=/run/postgresql")}
MYSQL_SOCKET = {"UnixSocket": "/run/mysqld/mysqld.sock"}
NOT_SYNCED = Point("SyncStorageArea false", orthanc={"SyncStorageArea": False}, durable=False)

POINTS = {
    "sqlite": [Point(SHIPPED), Point(DEFAULTS), NOT_SYNCED],
    "postgresql": [
        Point(SHIPPED),
        Point(DEFAULTS),
        *(connections(number) for number in (1, 2, 5, 10, 20)),
        Point("socket", plugin=POSTGRESQL_SOCKET),
        connections(5, **POSTGRESQL_SOCKET),
        Point("TLS on the host itself", plugin={"ConnectionUri": uri("127.0.0.1:5432/orthanc?sslmode=require")}),
        Point(
            "WAL and checkpoints as PostgreSQL has them",
            server={"max_wal_size": "1GB", "min_wal_size": "80MB", "checkpoint_timeout": "5min"},
        ),
        Point("a checkpoint every 32 MB of WAL", server={"max_wal_size": "32MB", "min_wal_size": "32MB"}),
        Point("wal_compression on", server={"wal_compression": "on"}),
        Point("shared_buffers 128MB", server={"shared_buffers": "128MB"}),
        Point("synchronous_commit off", server={"synchronous_commit": "off"}, durable=False),
        NOT_SYNCED,
    ],
    "mysql": [
        Point(SHIPPED),
        Point(DEFAULTS),
        *(connections(number) for number in (1, 2, 3, 5, 10, 20)),
        Point("socket", plugin=MYSQL_SOCKET),
        connections(1, **MYSQL_SOCKET),
        Point("buffer pool 128M", server={"innodb_buffer_pool_size": "128M"}),
        Point("log file 96M, as MariaDB has it", server={"innodb_log_file_size": "96M"}),
        Point("innodb_flush_method fsync", server={"innodb_flush_method": "fsync"}),
        Point("innodb_io_capacity 2000", server={"innodb_io_capacity": 2000}),
        # On is MariaDB's default from 11.6.2.
        Point("innodb_snapshot_isolation on", server={"innodb_snapshot_isolation": "ON"}),
        Point(
            "innodb_flush_log_at_trx_commit 2",
            server={"innodb_flush_log_at_trx_commit": 2},
            durable=False,
        ),
        NOT_SYNCED,
    ],
}
