"""Run orders at an agent: units, and actions of local drivers, one after the other for each target.

Queries need a leader's token just as changes do, and may name only what the agent's file lists.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import Any, Final, cast, get_args

from evac.agent.config import AgentConfig
from evac.agent.fencing import Permits
from evac.agent.memory import TokenLedger
from evac.agent.units import Units, UnitSeen
from evac.drivers.port import Action, Driver, Order, Verb
from evac.drivers.process.client import error_values
from evac.drivers.registry import Drivers
from evac.model.errors import OutcomeUnknown, Permanent, Retryable

AT_ONCE: Final = 64
MAX_TIMEOUT_MS: Final = 3_600_000
_STARTING: Final = frozenset({"start", "boot"})
_SLACK_S: Final = 1.0
_CHANGING: Final = frozenset({"execute", "undo"})


class Acting:
    """Runs orders. A token lower than an earlier one is refused when the order is run, not when it
    arrives.
    """

    def __init__(
        self, config: AgentConfig, units: Units, permits: Permits, ledger: TokenLedger, drivers: Drivers
    ) -> None:
        self._config, self._units, self._permits = config, units, permits
        self._ledger, self._drivers = ledger, drivers
        self.allow = config.allow
        self._room = AT_ONCE
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def unit(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Run an order for a unit of this site. Raises `ActionError`."""
        order = read_order(values)
        what, verb, name = _words(values, "what"), _words(values, "verb"), _words(values, "unit")
        replicas = _number({"replicas": -1, **values}, "replicas", least=-1)
        config, count = self._units.config(name), self._units.counts(name, replicas)
        if what != "execute":
            self._ledger.refuse(order.token)
        if what == "check":
            return {"problems": self._problems(order, config.store), "evidence": {"most": config.room}}
        if what == "observe" or verb == "verify":
            return _seen(await self._units.see(name), verb, count)
        if what != "execute":
            raise Permanent("order-wrong", f"units do not support {what}")
        if order.dry_run:
            return {"outcome": "absent", "evidence": {"would_want": count}}
        async with self._turn(f"unit/{name}"):
            self._obey(order, config.store if count else "")
            seen = await self._units.set(name, count, order.timeout_s, at_least=verb in _STARTING)
        return _seen(seen, verb, count)

    async def act(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Run an action of a local driver. Raises `ActionError`."""
        order, action, what = read_order(values), read_action(values), _words(values, "what")
        driver = self._driver(action)
        if what not in _CHANGING:
            self._ledger.refuse(order.token)
        if what == "check":
            checked = await _bounded(driver.check(action, order), order)
            said = {"problems": list(checked.problems), "evidence": dict(checked.evidence)}
            return said if checked.error is None else said | {"would": error_values(checked.error)}
        if what == "observe":
            observed = await _bounded(driver.observe(action, order), order)
            return {"outcome": observed.outcome, "evidence": dict(observed.evidence)}
        if what not in _CHANGING:
            raise Permanent("order-wrong", f"actions do not support {what}")
        do = driver.execute if what == "execute" else driver.undo
        async with self._turn(f"{action.driver}/{action.target}"):
            if not order.dry_run:
                self._obey(order, "")
            return {"evidence": dict(await _bounded(do(action, order), order))}

    def obey(self, token: int) -> None:
        """Record the token. Raises `Permanent` for one lower than an earlier token."""
        self._ledger.obey(token)

    def _obey(self, order: Order, store: str) -> None:
        """store: the data set of a unit that will run. An order of an older epoch does not restart a fenced
        primary.
        """
        if store and order.epoch < self._permits.epoch(store):
            raise Permanent(
                "stale-epoch", f"{store} has the epoch {self._permits.epoch(store)}; {order.epoch} is older"
            )
        self._ledger.obey(order.token)

    def _problems(self, order: Order, store: str) -> list[str]:
        found = []
        if store and order.epoch < self._permits.epoch(store):
            found.append(f"{store} has the epoch {self._permits.epoch(store)}; {order.epoch} is older")
        return found

    def _driver(self, action: Action) -> Driver:
        if action.driver not in self._config.drivers:
            raise Permanent(
                "driver-not-allowed",
                f"the agent of {self._config.site} does not support {action.driver}",
                "add it under drivers in the agent's file",
            )
        self.allow.refuse_other(action, self._config.site)
        return self._drivers.get(action.driver)

    def _turn(self, target: str) -> _Turn:
        lock = self._locks.get(target)
        if lock is None:
            lock = self._locks[target] = asyncio.Lock()
        return _Turn(self, lock)


class _Turn:
    """An order's place in the queue of its target; at most `AT_ONCE` orders wait or run."""

    def __init__(self, acting: Acting, lock: asyncio.Lock) -> None:
        self._acting, self._lock = acting, lock

    async def __aenter__(self) -> None:
        if self._acting._room <= 0:
            raise Retryable("agent-busy", "the agent is overloaded", after_ms=500)
        self._acting._room -= 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._acting._room += 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._acting._room += 1


def read_order(values: Mapping[str, Any]) -> Order:
    """Return the order in a request. Raises `Permanent`."""
    said = _table(values, "order")
    return Order(
        run=_words(said, "run"),
        step=_words(said, "step"),
        attempt=_number(said, "attempt"),
        token=_number(said, "token"),
        epoch=_number(said, "epoch"),
        reason=_words(said, "reason"),
        timeout_s=min(_number(said, "timeout_ms"), MAX_TIMEOUT_MS) / 1_000,
        key=_words(said, "key"),
        ticket=_words(said, "ticket"),
        dry_run=said.get("dry_run") is True,
    )


def read_action(values: Mapping[str, Any]) -> Action:
    """Return the action in a request. Raises `Permanent`."""
    said = _table(values, "action")
    verb = _words(said, "verb")
    if verb not in get_args(Verb):
        raise Permanent("order-wrong", f"{verb} is not a known action")
    return Action(
        cast("Verb", verb),
        _words(said, "target"),
        _words(said, "driver"),
        _words(said, "at"),
        _settings(said, "settings"),
        _settings(said, "parameters"),
    )


def _settings(values: Mapping[str, Any], key: str) -> dict[str, str | int | bool | tuple[str, ...]]:
    found: dict[str, str | int | bool | tuple[str, ...]] = {}
    for name, value in _table(values, key).items():
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            found[name] = tuple(value)
        elif isinstance(value, str | int | bool):
            found[name] = value
        else:
            raise Permanent("order-wrong", f"{key}.{name} is not a simple value")
    return found


async def _bounded(call: Any, order: Order) -> Any:
    """Run with a deadline. Drivers have their own; this one applies if a driver misses it."""
    try:
        async with asyncio.timeout(order.timeout_s + _SLACK_S):
            return await call
    except TimeoutError as error:
        raise OutcomeUnknown(
            "driver-hangs", "the driver did not finish in time", "observe it first"
        ) from error


def _seen(seen: UnitSeen, verb: str, count: int) -> dict[str, Any]:
    """Whether a unit is in the requested state. Extra instances are fine after a start; other verbs are
    exact.
    """
    evidence: dict[str, Any] = {"wanted": seen.wanted, "running": seen.running, "working": seen.working}
    more = verb in _STARTING or verb == "verify"
    enough = seen.working >= count if more else seen.working == count == seen.running
    if enough and (count > 0 or seen.running == 0):
        return {"outcome": "done", "evidence": evidence, "set": seen.is_set}
    evidence["why"] = f"{seen.working} of {count} work, {seen.running} run"
    asked = seen.wanted >= count if more else seen.wanted == count
    under_way = verb != "verify" and asked and count > 0
    outcome = "unclear" if under_way else "absent"
    return {"outcome": outcome, "evidence": evidence, "set": seen.is_set}


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise Permanent("order-wrong", f"{key} is missing")
    return found


def _words(values: Mapping[str, Any], key: str) -> str:
    found = values.get(key, "")
    if not isinstance(found, str) or len(found) > 4_096:
        raise Permanent("order-wrong", f"{key} must be text")
    return found


def _number(values: Mapping[str, Any], key: str, least: int = 0) -> int:
    found = values.get(key, 0)
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found < 2**63:
        raise Permanent("order-wrong", f"{key} must be a number")
    return found
