"""One row a loss: what is down, what comes back and when, whom it touches, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from evac.audit.impacts import DEGRADED, FATES, LOST, RECOVERS, UNAFFECTED, UNKNOWN, Impacts, Method
from evac.audit.losses import LossKind
from evac.audit.stores import NEVER, UNKNOWN_MS
from evac.model.fleet import BoolColumn, CodeColumn, IndexColumn

Verdict = Literal["ok", "degraded", "loss", "unknown"]
VERDICTS: Final[tuple[Verdict, ...]] = ("loss", "unknown", "degraded", "ok")


@dataclass(frozen=True, slots=True)
class ServiceFate:
    """What a loss does to one service. recovery_ms: None unless it comes back at a known time."""

    service: str
    fate: str
    recovery_ms: int | None


@dataclass(frozen=True, slots=True)
class CapacityShort:
    """What is missing after a loss: amount of a resource on some kind of servers (base units)."""

    classes: str
    resource: str
    missing: int
    replicas: int


@dataclass(frozen=True, slots=True, eq=False)
class LossRow:
    """One loss.

    kind: of the domain, or `pair`; members: the domains lost at once. down: services that do not
    serve right after it; recovered, lost, degraded, unknown: services by fate. people_down: people
    without a service, counted once a service; late: services back after their rto; untimed: back,
    but a duration on the way is not known. worst_ready_ms: longest known recovery; data_loss_ms:
    most data lost by a store (None: not known); stores_lost; stores_gone: without any copy left.
    to_place, placed: replicas; sheds: room needs shedding; short: what is missing. service, fate,
    ready_ms: columns of the services that are not unaffected.
    """

    domain: str
    kind: LossKind
    members: tuple[str, ...]
    method: Method
    verdict: Verdict
    down: int
    recovered: int
    degraded: int
    lost: int
    unknown: int
    late: int
    untimed: int
    people_down: int
    worst_ready_ms: int
    data_loss_ms: int | None
    stores_lost: int
    stores_gone: int
    to_place: int
    placed: int
    sheds: bool
    short: tuple[CapacityShort, ...]
    service: IndexColumn
    fate: CodeColumn
    ready_ms: NDArray[np.integer[Any]]

    def fates(self, names: tuple[str, ...]) -> Iterator[ServiceFate]:
        """Services that are not unaffected, in order; `names`: ids of all services."""
        columns = (self.service.tolist(), self.fate.tolist(), self.ready_ms.tolist())
        for service, fate, ready in zip(*columns, strict=True):
            known = fate == RECOVERS and 0 < ready < NEVER
            yield ServiceFate(names[service], FATES[fate], ready if known else None)


def loss_rows(impacts: Impacts) -> tuple[LossRow, ...]:
    """A row for every loss, in the order of the losses."""
    return tuple(_rows(impacts))


@dataclass(frozen=True, slots=True, eq=False)
class _Touched:
    """What losses do to services that are not unaffected: one entry a pair, sorted by loss."""

    loss: NDArray[np.intp]
    service: NDArray[np.intp]
    fate: CodeColumn
    ready: NDArray[np.integer[Any]]
    vague: BoolColumn


def _touched(impacts: Impacts) -> _Touched:
    place = np.flatnonzero(impacts.fate != UNAFFECTED)
    loss, service = np.divmod(place, max(1, impacts.fate.shape[1]))
    return _Touched(
        loss,
        service,
        impacts.fate.reshape(-1)[place],
        impacts.ready_ms[loss, service],
        impacts.untimed[loss, service],
    )


def _rows(impacts: Impacts) -> Iterator[LossRow]:
    losses, count = impacts.losses, len(impacts.losses)
    found = _touched(impacts)
    number, fate, ready = found.loss, found.fate, found.ready
    back = fate == RECOVERS
    counts = _per_loss(count, number * len(FATES) + fate, len(FATES)).T.tolist()
    late = _per_loss(count, number[back & (ready > impacts.rto_ms[found.service])]).tolist()
    untimed = _per_loss(count, number[back & found.vague]).tolist()
    worst = np.zeros(count, np.int64)
    timed = back & ~found.vague
    np.maximum.at(worst, number[timed], ready[timed])
    down, touched = _down(impacts)
    stores = _stores(impacts)
    edges = np.searchsorted(number, np.arange(count + 1)).tolist()
    named = found.service.astype(np.int32)
    ready = np.where(found.vague, 0, ready)
    for n in range(count):
        part = slice(edges[n], edges[n + 1])
        data_loss, stores_lost, stores_gone = stores[n]
        short = impacts.capacity.short.get(n)
        yield LossRow(
            domain=losses.ids[n],
            kind=losses.kinds[n],
            members=losses.members[n],
            method=impacts.methods[n],
            verdict=_verdict(counts[LOST][n], stores_gone, counts[UNKNOWN][n], down[n], counts[DEGRADED][n]),
            down=down[n],
            recovered=counts[RECOVERS][n],
            degraded=counts[DEGRADED][n],
            lost=counts[LOST][n],
            unknown=counts[UNKNOWN][n],
            late=late[n],
            untimed=untimed[n],
            people_down=touched[n],
            worst_ready_ms=int(worst[n]),
            data_loss_ms=data_loss,
            stores_lost=stores_lost,
            stores_gone=stores_gone,
            to_place=int(impacts.capacity.to_place[n]),
            placed=int(impacts.capacity.placed[n]),
            sheds=short is not None and short.sheds,
            short=()
            if short is None
            else tuple(CapacityShort(s.classes, s.resource, s.missing, s.replicas) for s in short.shorts),
            service=named[part],
            fate=fate[part],
            ready_ms=ready[part],
        )


def _per_loss(losses: int, keys: NDArray[np.integer[Any]], width: int = 1) -> NDArray[np.int64]:
    """How often each loss occurs; with a width, (L, width) by a second key."""
    found = np.bincount(keys, minlength=losses * width).astype(np.int64)
    return found.reshape(losses, width) if width > 1 else found


def _down(impacts: Impacts) -> tuple[list[int], list[int]]:
    """Services down in each loss, and the people who notice."""
    pairs, count = impacts.damage.pairs, len(impacts.losses)
    people = np.array([s.people or 0 for s in impacts.estate.services], np.float64)
    down = np.bincount(pairs.loss, minlength=count)
    touched = np.bincount(pairs.loss, people[pairs.service], count)
    return down.tolist(), touched.astype(np.int64).tolist()


def _verdict(lost: int, stores_gone: int, unknown: int, down: int, degraded: int) -> Verdict:
    """Loss before unknown before degraded: what is not known is never called fine."""
    if lost or stores_gone:
        return "loss"
    if unknown:
        return "unknown"
    return "degraded" if down or degraded else "ok"


def _stores(impacts: Impacts) -> list[tuple[int | None, int, int]]:
    """(most data lost, stores lost, stores with no copy left) of each loss."""
    found: list[list[int]] = [[0, 0, 0, 0] for _ in range(len(impacts.losses))]
    hits = impacts.stores
    for number, which in zip(hits.loss.tolist(), hits.outcome.tolist(), strict=True):
        outcome = hits.outcomes[which]
        if not outcome.lost:
            continue
        row = found[number]
        row[1] += 1
        if outcome.loss_ms == NEVER:
            row[2] += 1
        elif outcome.loss_ms == UNKNOWN_MS:
            row[3] += 1
        else:
            row[0] = max(row[0], outcome.loss_ms)
    return [(None if unknown else worst, lost, gone) for worst, lost, gone, unknown in found]
