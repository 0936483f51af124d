"""What is broken of the address before a cluster, and the checks that have to fail then: ``make test-cluster``.

The hosts are named by what they do at that moment: ``has`` (the one with the address), ``waits`` and ``both``.
"""

from __future__ import annotations

from tests.breakages.hosts import Breakage

CHECKS = (
    "test_address::test_one_host_has_the_address",
    "test_address::test_balancers_take_all_for_working",
    "test_address::test_address_serves",
    "test_address::test_address_takes_dicom",
    "test_address::test_address_lets_no_stranger_in",
)
ONE, WORKING, SERVES, DICOM, STRANGER = CHECKS
CONFIG = "/etc/pacs/haproxy/haproxy.cfg"

ADDRESS = (
    Breakage(
        "nobody has the address",
        (ONE, SERVES, DICOM),
        "systemctl stop keepalived",
        hosts=("both",),
        undo="systemctl start keepalived",
    ),
    Breakage(
        "no balancer works",
        (ONE, WORKING, SERVES, DICOM),
        "systemctl stop haproxy",
        hosts=("both",),
        undo="systemctl start haproxy",
    ),
    Breakage(
        "an Orthanc is out of the balancers",
        (WORKING,),
        "systemctl stop nginx",
        hosts=("waits",),
        undo="systemctl start nginx",
    ),
    Breakage(
        "strangers get through the balancer",
        (STRANGER,),
        f"cp {CONFIG} /root/haproxy.cfg; sed -i '/tcp-request/d' {CONFIG}; systemctl reload haproxy",
        hosts=("both",),
        undo=f"cp /root/haproxy.cfg {CONFIG}; systemctl reload haproxy",
    ),
)
