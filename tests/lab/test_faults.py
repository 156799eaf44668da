"""Faults of real sites that are no whole fire: cut off, flapping, slow, half burnt, without a replica, full.

One lab for all of them, in the order in which it is worn out: so they are one test.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest

from evac_lab import faults, status
from evac_lab.state import HALLS, PORTS, LabError, LabFolder, living
from tests.lab import by_hand
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]


def test_faults_that_are_no_whole_fire() -> None:
    with running_lab(controllers=False) as lab:
        a_site_that_is_cut_off_is_silent_and_lives_on(lab)
        writes_hang_without_the_synchronous_replica_and_no_second_try_is_acknowledged(lab)
        half_a_site_and_a_full_disk(lab)


def a_site_that_is_cut_off_is_silent_and_lives_on(lab: LabFolder) -> None:
    alive = living(lab.need(), lab, "pangyo")
    faults.cut(lab, "pangyo")
    assert lab.need().cut == ("pangyo",)
    assert writes(lab, within_s=1.5) == 0
    url = f"http://{lab.need().topology.site('pangyo').host('messenger')}:{PORTS['messenger']}/health"
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        urllib.request.urlopen(url, timeout=0.5)
    faults.heal(lab, "pangyo")
    assert writes(lab) >= 5
    # Sessions of a database come and go; its servers are the ones that were there before.
    assert {one.pid for one in lab.need().of_site("pangyo")} <= alive
    faults.flap(lab, "pangyo", times=2, down_s=0.2, up_s=0.2)
    faults.slow(lab, "pangyo", for_s=1.0)
    assert writes(lab) >= 5


def writes_hang_without_the_synchronous_replica_and_no_second_try_is_acknowledged(
    lab: LabFolder,
) -> None:
    """A retry with the same id must not be acknowledged because the row of the first try is there locally."""
    faults.burn(lab, "anyang")
    site = lab.need().topology.site("pangyo")
    body = json.dumps({"id": "same", "room": "r", "sender": "s", "text": "t"}).encode()
    for _ in range(3):
        request = urllib.request.Request(
            f"http://{site.host('messenger')}:{PORTS['messenger']}/messages", body
        )
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=5)
        raised.value.close()
        assert raised.value.code == 503
    assert by_hand.sql(lab, "pangyo", "select count(*) from messages where id = 'same'") == ["1"]
    assert writes(lab, within_s=1.0) == 0
    name = lab.need().topology.site("ansan").member
    by_hand.sql(
        lab,
        "pangyo",
        f"""alter system set synchronous_standby_names = 'FIRST 1 ("{name}")'""",
        "select pg_reload_conf()",
    )
    assert writes(lab) >= 5


def half_a_site_and_a_full_disk(lab: LabFolder) -> None:
    struck = faults.half(lab, "ansan", "hall-2")
    assert struck.processes >= len(HALLS["hall-2"]) - 1
    servers = {site.name: site.servers for site in status.look(lab, lab.need()).sites}["ansan"]
    assert {role for role, state in servers.items() if state == "down"} == set(HALLS["hall-2"]) & set(servers)
    with pytest.raises(LabError, match="no such hall"):
        faults.half(lab, "ansan", "hall-9")
    assert writes(lab) >= 5
    # A database that cannot write its log ends itself: that is what a full disk does.
    assert faults.disk_full(lab, "pangyo").processes > 5
    time.sleep(0.5)
    assert writes(lab, within_s=1.5) == 0
    faults.disk_full(lab, "pangyo", full=False)
