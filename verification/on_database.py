"""Ask the database beside the Orthanc of this host. Runs on the host, as root.

Arguments: the configuration folder, the database and a study's UID. The login is read where Orthanc
reads it. Prints JSON: what the login may do, how often the study is indexed, and the settings in force.
"""

import json
import sys
import urllib.parse

folder, engine, study = sys.argv[1:]
with open(f"{folder}/{engine}.json", encoding="utf-8") as file:
    options = next(iter(json.load(file).values()))
FIND = "SELECT COUNT(*) FROM DicomIdentifiers WHERE tagGroup = 32 AND tagElement = 13 AND value = %s"
found = {}


def refused(connect, **changes):
    """Tell whether the server keeps the login out of what is not its own."""
    try:
        connect(**changes).close()
    except Exception as error:
        return type(error).__name__
    return ""


if engine == "postgresql":
    import psycopg2

    uri = urllib.parse.urlsplit(options["ConnectionUri"])

    def connect(**changes):
        return psycopg2.connect(options["ConnectionUri"], **changes)

    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(FIND, (study,))
        found["rows"] = cursor.fetchone()[0]
        cursor.execute(
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
            " FROM pg_roles WHERE rolname = current_user"
        )
        found["powerful"] = cursor.fetchone()[0]
        cursor.execute("SELECT name, setting, sourcefile, pending_restart FROM pg_settings")
        rows = cursor.fetchall()
        found["pending"] = [name for name, _, _, pending in rows if pending]
        cursor.execute("SELECT current_setting('password_encryption')")
        found["passwords"] = cursor.fetchone()[0]
    found["elsewhere"] = refused(connect, dbname="postgres")
else:
    import pymysql

    def connect(**changes):
        login = {
            "host": options["Host"],
            "port": options["Port"],
            "user": options["Username"],
            "password": options["Password"],
            "database": options["Database"],
        }
        return pymysql.connect(**(login | changes))

    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(FIND, (study,))
        found["rows"] = cursor.fetchone()[0]
        cursor.execute("SHOW GRANTS")
        grants = [row[0] for row in cursor.fetchall()]
        found["powerful"] = any(
            "ON *.*" in grant and not grant.startswith("GRANT USAGE") for grant in grants
        ) or any("WITH GRANT OPTION" in grant for grant in grants)
        cursor.execute("SELECT @@character_set_database")
        found["encoding"] = cursor.fetchone()[0]
        found["pending"] = []
    found["elsewhere"] = refused(connect, database="mysql")
found["nobody"] = refused(connect, password="not the password")
print(json.dumps(found))
