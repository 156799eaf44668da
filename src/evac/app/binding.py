"""The actions of a run: bound once from plan and estate, and compared by a controller that takes the run
over.

The store is not trusted: a controller binds again from its own files, and names any step that differs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace

import orjson

from evac.app.accepting import decoded, must_fit
from evac.app.observed_stores import SeenEstate
from evac.drivers.port import Action, Value
from evac.drivers.registry import is_by_person, spec_of
from evac.engine.runs.binding import Bound, bind, get_bound, put_bound
from evac.engine.runs.reading import incident_key
from evac.engine.stores import stalled_commits
from evac.engine.stores.guards import as_allowed
from evac.model.digest import canonical_json, estate_digest
from evac.model.errors import Corrupt, NotAllowed
from evac.model.estate import Estate
from evac.model.run_policy import RunPolicy
from evac.store.port import Compare, Store


async def bind_once(
    store: Store,
    seen: SeenEstate,
    policy: RunPolicy,
    now: RunPolicy,
    data: bytes,
    run: str,
    incident: str,
    digest: str,
) -> Bound:
    """Return the actions of a run from the plan it has, as originally bound, even if estate and policy have
    changed. policy: of the run; now: in use. Raises StalePlan if the store has lost them and the plan was
    made from another estate than the current one.
    """
    if stalled_commits.is_protection(data):
        return _protecting(seen.files, policy, data, run, incident, digest)
    try:
        bound = await get_bound(store, run, digest)
    except Corrupt:
        return await bind_anew(store, seen, policy, data, run, incident, digest)
    must_reach_own(bound, seen.files)
    if policy == now:
        await _must_be_bound_so(bound, seen, as_allowed(policy, store.quorum), data)
    return bound


async def _must_be_bound_so(bound: Bound, seen: SeenEstate, policy: RunPolicy, data: bytes) -> None:
    """Bind the plan again in this controller, and require the same actions for each step. This needs the
    estate that the plan was made from, as files or as observed. Raises NotAllowed.
    """
    plan = await asyncio.to_thread(decoded, data)
    made_from = next(
        (one for one in (seen.files, seen.estate) if estate_digest(one) == plan.estate_digest), None
    )
    if made_from is None:
        return
    spec = bound.spec
    again = await asyncio.to_thread(
        bind, made_from, plan, policy, run=spec.run, incident=spec.incident, digest=spec.plan
    )
    must_do_the_same(bound, again)


def must_do_the_same(bound: Bound, own: Bound) -> None:
    """Raise NotAllowed, naming the first step that differs. own: the actions as this controller binds the
    plan.
    """
    for step in (*bound.actions, *own.actions):
        if _done_by(bound, step) == _done_by(own, step):
            continue
        raise NotAllowed(
            "bound-differs",
            f"{step} of {bound.spec.run} differs from what this controller would do under the same plan",
            "if the run was created by another version of evac, finish it with that version, or create a new "
            "run with evac run adopt; otherwise, someone changed the store",
        )


def _done_by(bound: Bound, step: str) -> list[Action] | None:
    """The actions of a step, without texts for people."""
    found = bound.actions.get(step)
    if found is None:
        return None
    return [replace(one, settings={}) if is_by_person(one.driver) else one for one in found]


def must_reach_own(bound: Bound, estate: Estate) -> None:
    """Require that a run reaches only what this controller's own files name: addresses, programs, references.
    Other settings mean that the store, or the files, changed since binding. Raises NotAllowed.
    """
    own: dict[tuple[str, str], list[Mapping[str, Value]]] = {}
    for end in estate.endpoints:
        own.setdefault((end.driver, end.at), []).append(_reached(end.driver, end.settings))
    for step, actions in bound.actions.items():
        for action in actions:
            reached = _reached(action.driver, action.settings)
            if reached and reached not in own.get((action.driver.partition("@")[0], action.at), []):
                raise NotAllowed(
                    "bound-differs",
                    f"{step} of {bound.spec.run} uses {action.driver} at {action.at} to reach a system that "
                    f"no endpoint in this controller's estate reaches: {', '.join(reached)}",
                    "restore the endpoint as it was when the run was created, or create a new run with "
                    "evac run adopt; if no one changed the estate, someone changed the store",
                )


def _protecting(
    estate: Estate, policy: RunPolicy, data: bytes, run: str, incident: str, digest: str
) -> Bound:
    """The run of a plan that restores the protection of a store. Such a plan is not checked as others are,
    and states how the store is reached: our own files must state the same. Raises NotAllowed, Corrupt.
    """
    bound = stalled_commits.bound_of(data, policy, run=run, incident=incident, digest=digest)
    for action in (one for actions in bound.actions.values() for one in actions):
        ends = [end for end in estate.endpoints if (end.subject, end.at) == (action.target, action.at)]
        own = [_canonical(end.driver, end.settings) for end in ends]
        if _canonical(action.driver, action.settings) not in own:
            raise NotAllowed(
                "bound-differs",
                f"a plan that protects {action.target} uses {action.driver} at {action.at} in a way that no "
                f"endpoint of {action.target} in this controller's estate states",
                "if the endpoint was changed, the leader makes a new plan; if no one changed the estate, "
                "someone wrote this plan into the store",
            )
        names = action.parameters["synchronous"]
        ends = [end for end in estate.endpoints if end.subject == action.target]
        assert isinstance(names, tuple)
        if unknown := set(names).difference(str(end.settings.get("name", "")) for end in ends):
            raise NotAllowed(
                "bound-differs",
                f"a plan that protects {action.target} lets {min(unknown)[:80]} confirm commits, but "
                f"no endpoint of {action.target} in this controller's estate has that name",
                "if no one changed the estate, someone wrote this plan into the store",
            )
    return bound


def _canonical(driver: str, settings: Mapping[str, Value]) -> bytes:
    """How an endpoint reaches its system, for comparison with what was stored as JSON."""
    return canonical_json([driver, dict(_reached(driver, settings))])


async def bind_anew(
    store: Store, seen: SeenEstate, policy: RunPolicy, data: bytes, run: str, incident: str, digest: str
) -> Bound:
    """Bind a new run, or a new plan of a run, from the current estate and policy.

    Anything already stored under its name was written by a leader that died before the run was made, or
    planted: it is overwritten. Raises StalePlan for a plan made from another estate, Conflict for an incident
    that already has a run.
    """
    if stalled_commits.is_protection(data):
        return _protecting(seen.files, policy, data, run, incident, digest)
    plan = await asyncio.to_thread(decoded, data)
    must_fit(plan, seen.digest, (seen.files, seen.observation))
    bound = await asyncio.to_thread(
        bind,
        seen.estate,
        plan,
        as_allowed(policy, store.quorum),
        run=run,
        incident=incident,
        digest=digest,
        losses=seen.losses(plan),
    )
    if run == "envelope":
        return bound
    made = await store.get(incident_key(incident))
    same = Compare(incident_key(incident), 0 if made is None else made.revision)
    if made is not None and _says(made.value, {"run": run, "plan": digest}):
        return await get_bound(store, run, digest)  # created twice: the actions of the first plan are fixed
    return await put_bound(store, bound, None, (same,))


def _says(value: bytes, told: Mapping[str, str]) -> bool:
    with contextlib.suppress(orjson.JSONDecodeError):
        return bool(orjson.loads(value) == told)
    return False


def _reached(driver: str, settings: Mapping[str, Value]) -> Mapping[str, Value]:
    """The settings that name an address, a program, a folder, a socket or a secret."""
    spec = spec_of(driver)
    found = {one.key for one in (() if spec is None else spec.all_settings) if one.names} | {"port"}
    return {
        key: value
        for key, value in sorted(settings.items())
        if key in found or any(kind in str(value) for kind in ("env:", "file:"))
    }
