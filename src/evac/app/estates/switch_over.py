"""A running controller goes over to another estate and policy, in one step of its loop.

What plans and runs are made of (`SeenEstate`, the planners, guards, health of services, probes, policies)
changes in the same moment, so that nothing is made of two. What a controller is built around is not
exchanged: the sites that vote, what they are for, their agents; and of the policy how a lost site is
recognised, the leases by which members fence themselves, and what every plan in the drawer was made under.
For that it is started anew.
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
from evac.app.planner.worker import waivers_of
from evac.engine.stores.guards import check_mode
from evac.estate.codecs.policy import load_policy
from evac.estate.format.document import read_document
from evac.estate.format.problems import Problems
from evac.model.errors import NotAllowed
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
        ("gone", was.keys() - now.keys()),
        ("new", now.keys() - was.keys()),
        ("there for something else", {name for name in was.keys() & now.keys() if was[name] != now[name]}),
    ):
        if names:
            return f"the site {min(names)} is {words}"
    agents, others = ({at: found[:2] for at, found in agents_of(one).items()} for one in (old, new))
    changed = {at for at in agents.keys() | others.keys() if agents.get(at) != others.get(at)}
    return f"the agent of {min(changed)} is reached in another way" if changed else ""


def policy_waits(old: RunPolicy, new: RunPolicy) -> str:
    """What of a new policy is not taken while a controller runs; empty where there is nothing. A policy is
    taken as a whole: where this says something, all of it waits.
    """
    if old.profile != new.profile:
        return "how a lost site is recognised is another (watch)"
    for name in sorted({*old.stores, *new.stores}):
        was, now = old.store(name), new.store(name)
        if was.self_fence != now.self_fence or (now.self_fence and was.lease_ttl_ms != now.lease_ttl_ms):
            return f"the lease by which {name} fences itself is another (stores/{name})"
    waived = set(waivers_of(old)) ^ set(waivers_of(new))
    if waived:
        return f"plans may promote {min(waived)} by another rule (stores/{min(waived)}: async_promotion)"
    return ""


def check_new_mode(new: RunPolicy, path: Path, quorum: bool, voters: int) -> None:
    """As at the start. path: of the policy. Raises NotAllowed, with the place of the mode."""
    try:
        check_mode(new.mode, quorum, voters)
    except NotAllowed as error:
        root = read_document(path.read_text("utf-8"), path.name, Problems())
        assert root is not None  # it was read, and says a mode that is not the careful one
        place = root.fields["mode"][1].place
        raise NotAllowed(error.code, f"{place}: {error.message}", error.hint) from error


async def turn(made: Composed, loaded: Loaded, path: Path, use: Callable[[], None]) -> None:
    """Everything that is made from now on is made of the new estate, by the new policy. path: where planners
    read the estate; it must not change. use: has the processes beside do the same; where it raises, nothing
    has changed.
    """
    parts, new, policy = made.controller.parts, loaded.estate, loaded.policy
    pooled = await asyncio.to_thread(pooled_of, new)

    def together() -> None:
        use()
        if policy != parts.desk.policies.now:
            parts.desk.policies.now = policy
            made.seen.rule(policy)
        made.worker.take(path, len(new.fleet))
        parts.desk.guards.pool(pooled)
        if isinstance(parts.desk.health, ServiceHealth):
            parts.desk.health.adopt(new)
        if parts.targets:
            deadline_s = policy.profile.deadline_ms / 1_000
            made.controller.retarget(probes_of(new, made.drivers, deadline_s))

    await made.seen.adopt(new, together)
