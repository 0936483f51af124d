"""Ask Patroni and etcd how the cluster is. Runs on the host of one of its servers, as root; it only reads.

Arguments: the addresses of etcd's members with their ports. Prints JSON: what Patroni says of the servers, and what
each member of etcd says of itself, and how far each server is in its log.
"""

import glob
import json
import ssl
import sys
import urllib.request
from typing import Any

import yaml

(configuration, *_) = glob.glob("/etc/patroni/*-main.yml")
with open(configuration, encoding="utf-8") as file:
    own = yaml.safe_load(file)["restapi"]
trust = ssl.create_default_context(cafile=own["cafile"])
trust.load_cert_chain(own["certfile"], own["keyfile"])


def ask(url: str, question: Any = None) -> Any:
    data = None if question is None else json.dumps(question).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=5, context=trust) as answer:
        return json.load(answer)


def member(place: str) -> dict[str, Any]:
    """What a member of etcd says: itself, whom it takes for the leader, all members, and what it complains of."""
    try:
        status = ask(f"https://{place}/v3/maintenance/status", {})
        members = ask(f"https://{place}/v3/cluster/member/list", {})["members"]
        alarms = ask(f"https://{place}/v3/maintenance/alarm", {"action": "GET"}).get("alarms", [])
    except (OSError, ValueError) as error:
        return {"problem": str(error) or type(error).__name__}
    return {
        "id": status["header"]["member_id"],
        # Absent where there is none.
        "leader": status.get("leader", ""),
        "members": sorted(one["peerURLs"][0] for one in members),
        "alarms": sorted(str(one.get("alarm")) for one in alarms),
        "size": int(status.get("dbSize", 0)),
    }


def place(one: dict[str, Any]) -> dict[str, int]:
    """How far a server is in its log, in bytes; nothing where it does not answer."""
    try:
        found = ask(one["api_url"]).get("xlog", {})
    except (OSError, ValueError):
        return {}
    return {key: found[key] for key in ("location", "received_location", "replayed_location") if found.get(key)}


# Who listens has no other proxy to be asked by.
urllib.request.install_opener(
    urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
)
patroni = ask(f"https://{own['connect_address']}/cluster")
# The primary last: none may be further than it.
places = {one["name"]: place(one) for one in sorted(patroni["members"], key=lambda one: one["role"] == "leader")}
print(json.dumps({"patroni": patroni, "places": places, "etcd": {each: member(each) for each in sys.argv[1:]}}))
