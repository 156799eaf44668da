"""An audit again after one change of the estate, for every kind of change.

Run by `python -m bench changes [servers] [mended]`; `stages` prints the same. CPU seconds of this
process, as the machine may be shared. The collector is kept from walking through what the benchmark
itself holds; what an update makes it still looks through.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

PICKED: Final = (3, 600)
"""Services that are changed, one at a time; the slowest is shown."""

SPARE, DARK, CONDEMNED = 1, 2, 3


def _service(estate: Any, pick: int, **facts: Any) -> Any:
    services = list(estate.services)
    services[pick] = replace(services[pick], **facts)
    return replace(estate, services=tuple(services))


def _tier(estate: Any, pick: int) -> Any:
    return _service(estate, pick, tier=0 if estate.services[pick].tier else 2)


def _needs(estate: Any, pick: int) -> Any:
    from evac.model.estate import Dependency

    service = estate.services[pick]
    other = estate.services[0].id
    return _service(estate, pick, needs=(*service.needs, Dependency(other, "service", True)))


def _store_member(estate: Any, pick: int) -> Any:
    from evac.model.estate import StoreMember

    chosen = pick % len(estate.stores)
    stores = list(estate.stores)
    more = StoreMember(estate.sites[pick % len(estate.sites)].id, "async", 1_000)
    stores[chosen] = replace(stores[chosen], members=(*stores[chosen].members, more))
    return replace(estate, stores=tuple(stores))


def _ttl(estate: Any, pick: int) -> Any:
    from evac.model.estate import Traffic

    return _service(estate, pick, traffic=Traffic("dns", ttl_ms=7_200_000))


def _replicas(estate: Any, pick: int, change: Callable[[Any, int], dict[str, Any]]) -> Any:
    """A change of the first binding of a service."""
    row = int(np.searchsorted(estate.replicas.service, pick))
    return replace(estate, replicas=replace(estate.replicas, **change(estate, row)))


def _one_more(estate: Any, row: int) -> dict[str, Any]:
    count = estate.replicas.count.copy()
    count[row] += 1
    return {"count": count}


def _one_gone(estate: Any, row: int) -> dict[str, Any]:
    names = ("service", "kind", "target", "count")
    return {name: np.delete(getattr(estate.replicas, name), row) for name in names}


def _moved(estate: Any, row: int) -> dict[str, Any]:
    target = estate.replicas.target.copy()
    target[row] = max(0, int(target[row]) - 1)
    return {"target": target}


def _servers(estate: Any, pick: int, state: int, count: int) -> Any:
    first = pick * len(estate.fleet) // len(estate.services)
    states = estate.fleet.state.copy()
    states[first : first + count] = state
    return replace(estate, fleet=replace(estate.fleet, state=states))


CHANGES: Final[dict[str, Callable[[Any, int], Any]]] = {
    "people": lambda e, i: _service(e, i, people=1),
    "tier": _tier,
    "rto": lambda e, i: _service(e, i, rto_ms=1_000),
    "time to start": lambda e, i: _service(e, i, start_ms=7_000_000),
    "TTL": _ttl,
    "a hard dependency": _needs,
    "a member of a store": _store_member,
    "tools": lambda e, i: replace(e, tools=MappingProxyType({**e.tools, "deploy": (e.services[i].id,)})),
    "detection": lambda e, i: replace(e, detection_ms=e.detection_ms + 7_000 + i),
    "demand of a service": lambda e, i: _service(e, i, demand=(3_000, 4_096, 1, 0)),
    "smallest share": lambda e, i: _service(e, i, share=e.services[i].share / 2),
    "may be shed": lambda e, i: _service(e, i, sheddable=not e.services[i].sheddable),
    "one replica more": lambda e, i: _replicas(e, i, _one_more),
    "one replica gone": lambda e, i: _replicas(e, i, _one_gone),
    "one replica moved": lambda e, i: _replicas(e, i, _moved),
    "one server condemned": lambda e, i: _servers(e, i, CONDEMNED, 1),
    "40 servers off": lambda e, i: _servers(e, i, DARK, 40),
    "40 servers spare": lambda e, i: _servers(e, i, SPARE, 40),
}


@contextmanager
def _own_values_left_alone() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def audited_again(estate: Any, times: int = 5) -> dict[str, float]:
    """Median CPU seconds of an update by kind of change, of the slowest service."""
    from evac.audit import audit, update

    state = audit(estate)
    found = {}
    for name, change in CHANGES.items():
        slowest = 0.0
        for pick in PICKED:
            changed = change(estate, pick % len(estate.services))
            taken = []
            with _own_values_left_alone():
                for _ in range(times):
                    begin = time.process_time()
                    report = update(state, changed)
                    taken.append(time.process_time() - begin)
                    # Back again, so that nothing of the change is still known.
                    update(report, estate)
            slowest = max(slowest, statistics.median(taken))
        found[f"audit again: {name}, CPU"] = slowest
    return found


def main(servers: int = 90_000, mended: bool = False) -> None:
    """Print one line a kind of change."""
    from evac.estate.examples import pangyo

    for name, seconds in audited_again(pangyo(servers=servers, mended=mended)).items():
        print(f"{name:58s}{seconds:14.3f}")
