"""Steps of a cold start beside boots (power, what people free, copies led back), and what the wave is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Instance, LeftOff
from evac.model.plan import Wave
from evac.planning.boot_bound import UNLIMITED, Tools, wave_bound
from evac.planning.evacuation.board import NEVER, Board
from evac.steps.registry import kind_of

if TYPE_CHECKING:
    from evac.planning.assembly.steps import Draft

BY_ITSELF = "by_itself"
"""Parameter of a boot of a server that comes on with its power: look, and do not press."""


def power_steps(draft: Draft) -> None:
    """What is energised, in the order and at the ticks that the estate gives."""
    steps = draft.instance.power_steps
    for step in steps:
        draft.add(
            "power",
            step.target,
            f"power:{step.target}",
            step.start,
            step.end,
            manual=step.manual,
            after=tuple(f"power:{steps[number].target}" for number in step.after),
        )


def boot_fields(draft: Draft, row: int) -> dict[str, object]:
    """What a boot waits for of power, and whether it happens by itself."""
    instance = draft.instance
    fields: dict[str, object] = {}
    if len(instance.powered_by) and instance.powered_by[row] >= 0:
        fields["after"] = (f"power:{instance.power_steps[int(instance.powered_by[row])].target}",)
    if instance.boot_kinds[int(instance.rows.boot_kind[row])].by_itself:
        fields["parameters"] = {BY_ITSELF: True}
        fields["precheck"] = "its rack has power"
    return fields


def attest_steps(draft: Draft) -> None:
    """One for each service that a person must free before it starts."""
    for service, ticks in sorted(draft.instance.attests.items()):
        name = draft.instance.services.id[service]
        if ticks <= draft.instance.horizon:
            draft.add("attest", name, f"attest:{name}", 0, ticks, manual=True)


def reprotect_steps(draft: Draft) -> None:
    """Copies that are behind the primary, once it is there and they have power."""
    instance = draft.instance
    powered = max((step.end for step in instance.power_steps), default=0)
    for copy in instance.reprotects:
        after: tuple[str, ...] = ()
        since = powered
        if copy.lost >= 0:
            entry = draft.board.store[copy.lost]
            chosen = instance.stores[copy.lost].candidates[int(entry["candidate"])]
            follows = kind_of(chosen.kind).restores or chosen.id != copy.member
            if not 0 <= entry["primary_at"] < NEVER or not follows:
                continue
            after = (draft.promote_of[copy.lost],)
            since = max(since, int(entry["primary_at"]))
        if since + copy.ticks <= instance.horizon:
            draft.add(
                "reprotect",
                copy.store,
                f"reprotect:{copy.store}:{copy.member}",
                since,
                since + copy.ticks,
                candidate=copy.member,
                manual=True,
                after=after,
            )


def left_off(instance: Instance, board: Board) -> tuple[LeftOff, ...]:
    """Servers of the domain that stay off: those that are no rows, and those no boot was found for."""
    rows = instance.brought_up
    still = rows[board.row["on_at"][rows] < 0]
    found: dict[tuple[str, str], list[str]] = {}
    for row in still.tolist():
        site = instance.site_names[int(instance.rows.site[row])]
        found.setdefault((site, _why(instance, board, row)), []).append(instance.row_names[row])
    more = [LeftOff(site, why, tuple(sorted(names))) for (site, why), names in found.items()]
    return tuple(sorted((*instance.left_off, *more), key=lambda x: (x.domain, x.reason)))


def _why(instance: Instance, board: Board, row: int) -> str:
    watts = int(instance.rows.watts[row])
    for number in instance.rows.power[row].tolist():
        if number >= 0 and int(board.budget[number]["left"]) < watts:
            return f"the power of {instance.power[number].id} does not reach"
    return "it would be on only after the horizon"


def wave_of(instance: Instance, board: Board, better: Instance, boot_tools: int) -> Wave | None:
    """When the last server of the domain is on, and how early any order could have it; None: no domain.

    The bound is proved of `better`: facts known within bounds at their better ends.
    """
    rows = instance.brought_up.astype(np.int64)
    on = board.row["on_at"][rows]
    rows = rows[on >= 0]
    if not len(rows):
        return None
    bound = wave_bound(better, rows_in(better, instance, rows), tools_of(better, boot_tools))
    tick = instance.tick_ms
    return Wave(len(rows), int(on.max()) * tick, min(bound.tick, int(on.max())) * tick, bound.limit)


def rows_in(better: Instance, instance: Instance, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same servers in the instance of the better ends; fewer only make a bound lower."""
    if better is instance:
        return rows
    index = {name: row for row, name in enumerate(better.row_names)}
    found = [index.get(instance.row_names[row], -1) for row in rows.tolist()]
    return np.array([row for row in found if row >= 0 and better.rows.dark[row]], np.int64)


def tools_of(instance: Instance, back: int) -> Tools:
    """How many boots people can begin before the tools of boots are back."""
    need = instance.tools.get("boot")
    if need is None or not need.services or back <= 0:
        return Tools()
    if need.manual is None:
        return Tools(back, 0)
    hands = min((instance.limits[u.limit].capacity // u.units for u in need.manual_uses), default=UNLIMITED)
    return Tools(back, min(UNLIMITED, hands * -(-back // max(1, need.manual))))
