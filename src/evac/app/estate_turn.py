"""A running controller goes over to another estate, in one step of its loop.

What plans and runs are made of (`SeenEstate`, the planners, guards, health of services, probes) changes in
the same moment, so that nothing is made of two estates. What a controller is built around is not exchanged:
the sites that vote, what they are for, their agents, and the policy. For that it is started anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from evac import estate as estates
from evac.app.anchoring import agents_of
from evac.app.controlling import Composed, pooled_of
from evac.app.health import ServiceHealth
from evac.app.observing import probes_of
from evac.estate.policy_file import load_policy
from evac.model.estate import Estate
from evac.model.run_policy import RunPolicy


@dataclass(frozen=True, slots=True)
class Loaded:
    """An estate, and the policy beside it."""

    estate: Estate
    policy: RunPolicy


def load(estate: Path, policy: Path | None, as_of: date | None) -> Loaded:
    """Raises EstateError with every problem."""
    found = estates.load(estate, as_of)
    return Loaded(found, RunPolicy() if policy is None else load_policy(policy, found))


def needs_restart(old: Estate, new: Estate, site: str, watches: bool) -> str:
    """What of a new estate is not taken while the controller of that site runs; empty where there is nothing.
    watches: it is one of several.
    """
    was, now = ({one.id: one.role for one in estate.sites} for estate in (old, new))
    if watches and site not in now:
        return f"the site {site}, in which this controller stands, is gone"
    for words, names in (
        ("gone", was.keys() - now.keys()), ("new", now.keys() - was.keys()),
        ("there for something else", {name for name in was.keys() & now.keys() if was[name] != now[name]}),
    ):  # fmt: skip
        if names:
            return f"the site {min(names)} is {words}"
    agents, others = ({at: found[:2] for at, found in agents_of(one).items()} for one in (old, new))
    changed = {at for at in agents.keys() | others.keys() if agents.get(at) != others.get(at)}
    return f"the agent of {min(changed)} is reached in another way" if changed else ""


async def turn(made: Composed, new: Estate, path: Path, use: Callable[[], None]) -> None:
    """Everything that is made from now on is made of the new estate. path: where planners read it; it must
    not change. use: has the processes beside do the same; where it raises, nothing has changed.
    """
    parts = made.controller.parts
    policy = parts.desk.policy
    pooled = await asyncio.to_thread(pooled_of, new)

    def together() -> None:
        use()
        made.worker.take(path, len(new.fleet))
        parts.desk.guards.pool(pooled)
        if isinstance(parts.desk.health, ServiceHealth):
            parts.desk.health.adopt(new)
        if parts.targets:
            deadline_s = policy.profile.deadline_ms / 1_000
            made.controller.retarget(probes_of(new, made.session, made.drivers, deadline_s))

    await made.seen.adopt(new, together)
