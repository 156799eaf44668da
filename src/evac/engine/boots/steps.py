"""Boots and power steps as a run executes them, made of what the plan says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from evac.drivers.port import Action
from evac.engine.boots.binding import Boots
from evac.model.plan import Step
from evac.model.step_id import LimitId, power_step
from evac.run.values import RunLimit, RunStep


def with_power(boots: Boots | None, step: Step, made: RunStep) -> RunStep:
    """A boot with everything it holds and where it hangs; a power step with the inrush that outlasts it."""
    if boots is None or step.kind not in ("boot", "power"):
        return made
    beyond_plan = tuple(use for use in made.uses if LimitId.parse(use[0]).kind == "driver")
    if step.kind == "power":
        return replace(made, uses=(*boots.power_uses(step), *beyond_plan))
    feeds, server = boots.feeds(step.target), step.target
    rack = boots.rack(server)
    fed = [closing for closing in map(power_step, feeds) if closing not in made.after]
    return replace(
        made,
        uses=(*boots.uses(server, made.manual), *beyond_plan),
        after=(*made.after, *fed),
        feeds=feeds,
        rack="" if rack is None else rack.id,
        boot_server=boots.boot_server(server),
        lag_ms=boots.lag_ms(server),
        site=made.site or server_site(boots, server),
        cold=boots.is_cold(server),
    )


def server_site(boots: Boots, server: str) -> str:
    row = int(boots.estate.fleet.site[boots.rows[server]])
    return boots.estate.sites[row].id if row >= 0 else ""


def longest_first(steps: Sequence[RunStep]) -> list[RunStep]:
    """Of boots that nothing waits for, those that take longest begin first, in the planned starts of all of
    them: the last one to begin is then the quickest to end.
    """
    waited = {name for step in steps if step.kind not in ("boot", "power") for name in step.after}
    free = [step for step in steps if step.kind == "boot" and not step.manual and step.id not in waited]
    slots = sorted(step.start_ms for step in free)
    order = sorted(free, key=lambda step: (-step.duration_ms, step.start_ms, step.id))
    start = {step.id: slot for step, slot in zip(order, slots, strict=True)}
    return [replace(step, start_ms=start[step.id]) if step.id in start else step for step in steps]


def in_time(steps: Sequence[RunStep], limits: Sequence[RunLimit], end_ms: int) -> list[RunStep]:
    """Boots that would end too late for all to be on at `end_ms`, however quickly the others go, begin before
    what was planned earlier: a limit has to carry them and all that take as long or longer until then.
    """
    capacity = {limit.id: max(1, limit.capacity) for limit in limits if limit.kind == "slots"}
    boots = sorted(
        (step for step in steps if step.kind == "boot" and not step.manual),
        key=lambda step: (-step.duration_ms, step.start_ms, step.id),
    )
    work: dict[str, int] = {}
    latest: dict[tuple[str, int], int] = {}
    for step in boots:
        for name, units, hold in step.uses:
            if name in capacity and hold >= 0:
                work[name] = work.get(name, 0) + units * (hold or step.duration_ms)
                carried_ms = work[name] // capacity[name]
                needs_ms = step.duration_ms + carried_ms if hold else max(step.duration_ms, carried_ms)
                latest[name, step.duration_ms] = end_ms - needs_ms
    start = {
        step.id: min(
            (latest[name, step.duration_ms] for name, _, hold in step.uses if name in capacity and hold >= 0),
            default=step.start_ms,
        )
        for step in boots
    }
    return [
        replace(step, start_ms=max(0, min(step.start_ms, start[step.id]))) if step.id in start else step
        for step in steps
    ]


def fed_already(steps: Sequence[RunStep]) -> Iterator[tuple[RunStep, Action]]:
    """A step for each feed that has power before the run: done at once, and where a person stands at the gate
    if it trips.
    """
    known = {step.id for step in steps}
    feeds = {feed: step.site for step in steps for feed in step.feeds if power_step(feed) not in known}
    for feed, site in sorted(feeds.items()):
        yield RunStep(power_step(feed), "power", feed, 0, 0, site=site), Action("start", feed, "noop", site)
