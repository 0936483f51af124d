"""Ask the database of the Orthanc on this host. Runs on the host, as root.

Arguments: the configuration folder, the database and a study's UID. The login is read where Orthanc
reads it. Prints JSON: where the server is, what the login may do, how often the study is indexed, whether there
are DICOM files, and what is not in force.
"""

import importlib
import json
import ssl
import sys
from collections.abc import Sequence
from typing import Any

folder, engine, study = sys.argv[1:]
with open(f"{folder}/{engine}.json", encoding="utf-8") as file:
    options = next(iter(json.load(file).values()))
driver = importlib.import_module("psycopg2" if engine == "postgresql" else "pymysql")


def connect(**changes: Any) -> Any:
    """Log in as Orthanc does, but for the changes."""
    if engine == "postgresql":
        return driver.connect(options["ConnectionUri"], **changes)
    login = {
        "host": options["Host"],
        "port": options["Port"],
        "user": options["Username"],
        # As bytes, since as text it may hold Latin-1 only.
        "password": options["Password"].encode(),
        "database": options["Database"],
        "ssl_disabled": not options["EnableSsl"],
    }
    if options["EnableSsl"]:
        login["ssl"] = ssl.create_default_context(cafile=options["SslCACertificates"])
        # Newer Pythons would hold the authority to rules that Orthanc does not know.
        login["ssl"].verify_flags &= ~ssl.VERIFY_X509_STRICT
    return driver.connect(**(login | changes))


def ask(question: str, values: Sequence[str] = ()) -> list[Any]:
    """Return the last column of the answer."""
    connection = connect()
    try:
        cursor = connection.cursor()
        cursor.execute(question, values)
        return [row[-1] for row in cursor.fetchall()]
    finally:
        connection.close()


def refusal(**changes: Any) -> str:
    """Return how the server keeps the login out, or nothing if it does not."""
    try:
        connect(**changes).close()
    except driver.Error as error:
        return type(error).__name__
    return ""


if engine == "postgresql":
    powers = ask(
        "SELECT rolname FROM pg_roles WHERE rolname = current_user AND"
        " (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)"
    )
    with connect() as connection:
        encrypted = connection.info.ssl_in_use
        server = {name: connection.info.dsn_parameters[name] for name in ("dbname", "user")}
        # Of several, the one that was taken.
        server |= {"host": connection.info.host, "port": connection.info.port}
    # But for what it was told as a standby, before it took the place of its primary.
    pending = ask("SELECT name FROM pg_settings WHERE pending_restart AND name !~ '^(recovery|primary)_'")
    elsewhere = refusal(dbname="postgres")
    plain = refusal(sslmode="disable")
else:
    role = ask("SELECT CURRENT_ROLE()")[0] or ""
    # MySQL tells what its quoted roles give only of those that are named; MariaDB has one at most, and tells.
    of_roles = f" FOR CURRENT_USER() USING {role}".replace("%", "%%") if role.startswith("`") else ""
    powers = [
        grant
        for grant in ask(f"SHOW GRANTS{of_roles}")
        if grant.endswith(("WITH GRANT OPTION", "WITH ADMIN OPTION"))
        or ("ON *.*" in grant and not grant.startswith("GRANT USAGE"))
    ]
    encrypted = bool(ask("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0])
    server = {"host": options["Host"], "port": options["Port"]}
    pending = []
    elsewhere = refusal(database="mysql")
    plain = refusal(ssl_disabled=True, ssl=None)
print(
    json.dumps(
        {
            "server": server,
            # The tag of the StudyInstanceUID in decimal: (0020,000d).
            "rows": options["EnableIndex"]
            and ask(
                "SELECT COUNT(*) FROM DicomIdentifiers WHERE tagGroup = 32 AND tagElement = 13 AND value = %s", [study]
            )[0],
            "files": options["EnableStorage"] and len(ask("SELECT uuid FROM StorageArea LIMIT 1")) > 0,
            "encrypted": encrypted,
            "powers": len(powers),
            "pending": pending,
            "elsewhere": elsewhere,
            "plain": plain,
            "wrong password": refusal(password=b"not the password" if engine == "mysql" else "not the password"),
        }
    )
)
