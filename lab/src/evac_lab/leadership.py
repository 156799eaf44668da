"""Where evac's leader stands, and how it is brought to another site before a fire: by stopping the others."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from typing import Any, Final

from evac_lab import journal_facts, proc_table
from evac_lab.faults import family
from evac_lab.state import LabError, LabFolder, LabState, Running
from evac_lab.topology import Topology

MOVE_SECONDS: Final = 30.0
_ROLE: Final = "controller"


def move(folder: LabFolder, site: str) -> None:
    """Makes the controller of `site` lead, and the etcd member there too. Raises `LabError` when it will not.

    All other controllers stand still until it leads: a leader that stands still loses its lease, as a dead
    one does, and goes on as a follower.
    """
    state = folder.need()
    others = [one for one in state.processes if one.role == _ROLE and one.site != site and one.alive]
    if not any(one.role == _ROLE and one.site == site and one.alive for one in state.processes):
        raise LabError("lab-no-controller", f"no controller runs in {site}", "evac lab status")
    try:
        _stop_until(state.topology, site, others)
    finally:
        proc_table.resume(family(others))
    move_etcd(state.topology, site)
    _wait(lambda: journal_facts.leader_site(state.topology, site) == site, f"leading from {site}")


def _stop_until(topology: Topology, site: str, others: list[Running]) -> None:
    proc_table.send(family(others), signal.SIGSTOP)
    _wait(lambda: journal_facts.leader_site(topology, site) == site, f"moving the leader to {site}")


def _wait(ready: Any, what: str) -> None:
    deadline = time.monotonic() + MOVE_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise LabError("lab-leader", f"{what} took more than {MOVE_SECONDS:g} s", "evac lab status")
        time.sleep(0.1)


def move_etcd(topology: Topology, site: str) -> None:
    """Hands etcd's own leadership to the member of a site: an election re-arms leases, and that is the case
    worth measuring.
    """
    here = _ask(topology.site(site).url("etcd"), "/v3/maintenance/status", {})
    member, leader = here["header"]["member_id"], here["leader"]
    if member == leader:
        return
    for other in topology.others(site):
        if _ask(other.url("etcd"), "/v3/maintenance/status", {})["header"]["member_id"] == leader:
            _ask(other.url("etcd"), "/v3/maintenance/transfer-leadership", {"targetID": member})
            return


def _ask(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=2.0) as answer:
            found: dict[str, Any] = json.loads(answer.read(65_536))
    except OSError as error:
        raise LabError("lab-etcd", f"etcd at {url} does not answer: {error}", "evac lab status") from error
    return found


def leading_now(state: LabState) -> str:
    """Site of the leader; "" where none leads."""
    return journal_facts.leader_site(state.topology)
