"""Clients of a database server by their addresses."""

from ansible_collections.dicom.orthanc.plugins.filter.clients import at_addresses


def test_a_client_has_each_address_of_its_name() -> None:
    clients = [{"name": "a", "address": "pacs"}, {"name": "b", "address": "127.0.0.1"}, {"name": "c", "address": "x"}]
    found = at_addresses(clients, {"pacs": ["192.0.2.10", "2001:db8::10"], "127.0.0.1": ["127.0.0.1"], "x": []})
    assert [tuple(client.values()) for client in found] == [
        ("a", "192.0.2.10"),
        ("a", "2001:db8::10"),
        ("b", "127.0.0.1"),
        ("c", "x"),
    ]
