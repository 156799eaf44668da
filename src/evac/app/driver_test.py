"""Tries the contract of drivers on one endpoint: what it answers, and an action that is done and undone.

The same promises that the suites of evac hold its own drivers to: a check and an observation change nothing,
what is done is observed as done, doing it again is harmless, undo takes it back. An effect carries the token
0, so that a system that remembers a leader refuses it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from evac.app.doctor import ask
from evac.drivers.capabilities import ABOUT, Fences, RoutesTraffic, RunsUnits
from evac.drivers.parameters import sites
from evac.drivers.port import Action, Driver, Observed, Order, Value, Verb
from evac.drivers.registry import Drivers, spec_of
from evac.drivers.spec import FENCE
from evac.engine.runs.dry_run import ASKING_TOKEN
from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Endpoint, Estate
from evac.views.doctor_view import Tried

WITHIN_S: Final = 30.0
ACTS: Final = tuple(sorted(ABOUT[RunsUnits].verbs | ABOUT[RoutesTraffic].verbs | ABOUT[Fences].verbs))
"""Verbs that can be done and undone; a store that moved stays moved, and only a site is fenced here."""
_SAID_MAX: Final = 200


async def questions(estate: Estate, endpoint: Endpoint, drivers: Drivers) -> list[Tried]:
    """Every capability of the endpoint that can be asked without a change."""
    answers = await ask(estate, endpoint, drivers)
    return [
        Tried(
            one.capability.__name__,
            not one.code,
            f"{one.why} [{one.code}]" if one.code else one.said or "it answers",
        )
        for one in answers
    ]


def action_of(endpoint: Endpoint, verb: str, given: Mapping[str, str]) -> Action:
    """The action to try. Raises InvalidInput for one that the driver has not, or that cannot be undone."""
    spec, fences = spec_of(endpoint.driver), FENCE in endpoint.settings
    capabilities: tuple[type, ...] = (Fences,) if fences else ()
    if spec is not None and not fences:
        capabilities = tuple(one for one in spec.capabilities if spec.offers(endpoint.settings, one))
    found = {one for capability in capabilities for one in ABOUT[capability].verbs}
    known = sorted(one for one in found & set(ACTS) if fences or one != "fence")
    if verb not in known:
        message = f"{endpoint.driver} has no verb {verb[:40]} that can be done and undone"
        raise InvalidInput("driver-verb", message, f"verbs: {', '.join(known) or 'none'}")
    usual: dict[str, Value] = {}
    if verb in ("start", "scale"):
        usual = {"replicas": 1}
    elif verb in ("drain", "ready"):
        usual = {"site": endpoint.at}
    elif verb == "shift":
        usual = {"to": (endpoint.at,)}
    elif verb == "fence":
        usual = {"proof": str(endpoint.settings[FENCE])}
    parameters = usual | {key: _value(key, value) for key, value in given.items()}
    chosen: Verb = next(one for one in ACTS if one == verb)
    return Action(chosen, endpoint.subject, endpoint.driver, endpoint.at, endpoint.settings, parameters)


def _value(key: str, given: str) -> Value:
    """As plans write it: sites of a shift are several."""
    if key in ("to", "away"):
        return sites({key: given}, key)
    return int(given) if given.isdigit() else given


async def done_and_undone(action: Action, drivers: Drivers) -> list[Tried]:
    """The action, whole: it ends at the first promise that is broken, with an undo if anything was done."""
    driver = drivers.get(action.driver)
    # Every test is a step of its own: a system that remembers keys must not answer with an earlier one.
    step = f"step-{time.time_ns():x}"
    order = Order("driver-test", step, 1, 0, 0, "driver test", WITHIN_S, f"driver-test/{step}")
    asking = replace(order, token=ASKING_TOKEN)
    tried: list[Tried] = []
    try:
        checked = await driver.check(action, asking)
        tried.append(
            Tried("check says whether it can be done", checked.ready, _said(checked.problems or "ready"))
        )
        before = await _observed(
            driver, action, asking, tried, "observe says what is now", ("absent", "done")
        )
        dry = await driver.execute(action, replace(asking, dry_run=True))
        tried.append(Tried("a dry run says what it would do", bool(dry), _said(dry)))
        after = await driver.observe(action, asking)
        same = after.outcome == before.outcome
        tried.append(Tried("a dry run changes nothing", same, f"{before.outcome}, then {after.outcome}"))
        if before.outcome == "done":
            why = f"{action.verb} is done already: choose other parameters with --set"
            tried.append(Tried("there is something to do", False, why))
        if not all(one.passed for one in tried):
            return tried
        await _act(driver, action, order, asking, tried)
    except EvacError as error:
        tried.append(Tried("it answers without an error", False, _said(f"{error.message} [{error.code}]")))
    except TimeoutError:
        tried.append(Tried("it ends in time", False, f"no answer in {WITHIN_S:g} s"))
    return tried


async def _act(driver: Driver, action: Action, order: Order, asking: Order, tried: list[Tried]) -> None:
    """Does it, does it again and undoes it; the undo is tried whatever happened before it."""
    try:
        async with asyncio.timeout(WITHIN_S + 5):
            evidence = await driver.execute(action, order)
            tried.append(Tried(f"{action.verb} is done", bool(evidence), _said(evidence)))
            await _observed(driver, action, asking, tried, "what is done is observed as done", ("done",))
            again = await driver.execute(action, replace(order, attempt=2))
            tried.append(Tried("doing it again is harmless", True, _said(again)))
    finally:
        async with asyncio.timeout(WITHIN_S + 5):
            undone = await driver.undo(action, order)
            tried.append(Tried("undo takes it back", True, _said(undone)))
    await _observed(driver, action, asking, tried, "what is undone is observed as not done", ("absent",))


async def _observed(
    driver: Driver, action: Action, order: Order, tried: list[Tried], what: str, wanted: tuple[str, ...]
) -> Observed:
    found = await driver.observe(action, order)
    tried.append(Tried(what, found.outcome in wanted, _said(found.evidence or found.outcome)))
    return found


def _said(value: object) -> str:
    """What was answered, on one line and in bounds."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {one}" for key, one in value.items() if one != "")
    elif isinstance(value, tuple):
        value = "; ".join(map(str, value))
    text = " ".join(str(value).split())
    return text if len(text) <= _SAID_MAX else f"{text[: _SAID_MAX - 3]}..."
