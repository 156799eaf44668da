"""Finds starts of a plan that may not fit because an available or needed amount is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from evac.derive.circles import tools_of_base
from evac.model.instance import Instance, Services
from evac.planning.evacuation.board import STARTS, Board


@dataclass(frozen=True, slots=True)
class Doubt:
    """Service -> path of the unknown amount: for services whose base depends on it, by a start of their own
    or of what they wait for, and for those where only the rest does.
    """

    base: dict[int, str] = field(default_factory=dict)
    top: dict[int, str] = field(default_factory=dict)


def doubt_of(instance: Instance, board: Board) -> Doubt:
    """What depends on unknown amounts. Next to a start with unknown demand, the free capacity of its row is
    unknown for others.
    """
    if not instance.vague:
        return Doubt()
    s, found = instance.services, Doubt()
    lines = board.started[: board.size[STARTS]]
    beside: dict[int, set[int]] = {}
    for service, row in zip(lines["service"].tolist(), lines["row"].tolist(), strict=True):
        if service in instance.vague.demand:
            beside.setdefault(row, set()).add(service)
    for service, row, mile in zip(
        *(lines[name].tolist() for name in ("service", "row", "mile")), strict=True
    ):
        missing = _missing(instance, service, row, beside.get(row, ()))
        if missing:
            (found.top if mile else found.base).setdefault(service, missing)
    found.base.update(_waiting(instance, s, found.base))
    return found


def _missing(instance: Instance, service: int, row: int, beside: Iterable[int]) -> str:
    """Path of the unknown amount that a start on a row depends on; empty if none."""
    vague = instance.vague
    if service in vague.demand:
        return vague.demand[service]
    wanted = instance.services.demand[service]
    paths = [path for resource, path in vague.rows.get(row, ()) if wanted[resource] > 0]
    return next(iter(paths), "") or next((vague.demand[other] for other in sorted(beside)), "")


def _waiting(instance: Instance, s: Services, direct: dict[int, str]) -> dict[int, str]:
    """The same for services that are down and wait for these."""
    found = dict(direct)
    if not found:
        return found
    users: dict[int, list[int]] = {}
    for row in np.flatnonzero(s.base_lost).tolist():
        for other in {*s.hard[row], *tools_of_base(s, instance.tools, row)}:
            users.setdefault(other, []).append(row)
    queue = sorted(found)
    for row in queue:
        for user in users.get(row, ()):
            if user not in found:
                found[user] = found[row]
                queue.append(user)
    return found
