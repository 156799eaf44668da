"""What must never happen: forbidden states, the hold, maintenance, and modes that need a quorum.

A guard reads the store and returns a permit: compares and changes written in the same transaction as the
event they allow, so that nothing can slip in between. A guard that cannot be evaluated refuses.

    sites               {"pangyo": "active"|"evacuating"|"evacuated"|"lost", ...}
    pooled              {"chat": ["anyang", "ansan"], ...}: where the traffic of a service may go
    hold                exists: everything stops before its next effect
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import orjson

from evac.drivers.port import Action
from evac.engine.clock import Clock
from evac.model.access import Proven
from evac.model.errors import Corrupt, NotAllowed, Retryable
from evac.model.records import dataclass
from evac.model.run_policy import Mode, RunPolicy, Window
from evac.store.port import Change, Compare, Delete, Put, Store

SITES_KEY: Final = "sites"
POOLED_KEY: Final = "pooled"
HOLD_KEY: Final = "hold"
HOLD_ENDED: Final = "hold/released"
"""Who ended the last hold, why, and how that person was proven."""
SOMEBODY: Final = "somebody"
NAME_MOST: Final = 512
REASON_MOST: Final = 2_000
LEAST_SITES: Final = 3
WHOLE: Final = 1_000
"""The share of a shift, in permille, that leaves nothing behind."""
_TRAFFIC: Final = frozenset({"drain", "ready", "shift"})
HOLD_AGAIN_MS: Final = 1_000

Mark = Literal["active", "evacuating", "evacuated", "lost"]
_MARKS: Final = frozenset({"active", "evacuating", "evacuated", "lost"})


@dataclass(frozen=True, slots=True)
class Permit:
    """What must hold and what changes in the transaction of the allowed event."""

    compares: tuple[Compare, ...] = ()
    changes: tuple[Change, ...] = ()

    def __or__(self, other: Permit) -> Permit:
        """Both. Permits that change the same key come from two reads and must not be joined."""
        compares = {compare.key: compare for compare in (*self.compares, *other.compares)}
        assert not {c.key for c in self.changes} & {c.key for c in other.changes}
        return Permit(tuple(compares.values()), (*self.changes, *other.changes))


def check_mode(mode: Mode, quorum: bool, voters: int) -> None:
    """Raises `NotAllowed` for a mode in which evac acts, unless evac's own quorum survives every site.

    quorum: of the store; voters: sites with a member of the store and a witness.
    """
    if mode == "advise":
        return
    if not quorum:
        raise NotAllowed(
            "mode-needs-quorum",
            f"mode {mode} is refused: the store would not survive the loss of any one site",
            "use etcd with members in three sites, or mode advise",
        )
    if voters < LEAST_SITES:
        raise NotAllowed(
            "mode-needs-witness",
            f"mode {mode} is refused: {voters} sites vote; {LEAST_SITES} are needed",
            "place a member and a witness in a third site, or use mode advise",
        )


def marks_in(value: bytes) -> dict[str, str] | None:
    """Site -> its mark in the register, sorted; None if unreadable: guards then allow nothing."""
    with contextlib.suppress(ValueError):
        found = orjson.loads(value)
        if isinstance(found, dict):
            return {site: mark for site, mark in sorted(found.items()) if isinstance(mark, str)}
    return None


def as_allowed(policy: RunPolicy, quorum: bool) -> RunPolicy:
    """The policy as far as the store allows it: without a quorum evac does only what a person requested."""
    return policy if quorum else replace(policy, mode="advise")


class Draft:
    """Keys as read once and as they will be written: several guards' changes to one key become one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, int] = {}
        self._values: dict[str, Any] = {}
        self._changed: set[str] = set()

    async def get(self, key: str) -> Any:
        """The value under a key, None if there is none. Raises `NotAllowed` if it is not JSON."""
        if key not in self._read:
            entry = await self._store.get(key)
            try:
                self._values[key] = None if entry is None else orjson.loads(entry.value)
            except orjson.JSONDecodeError as error:
                raise _unreadable(key) from error
            self._read[key] = 0 if entry is None else entry.revision
        return self._values[key]

    async def read(self, *keys: str) -> None:
        """Reads several keys at once that will be needed; `get` raises what cannot be read."""
        await asyncio.gather(*(self.get(key) for key in keys), return_exceptions=True)

    async def exists(self, key: str) -> bool:
        """Whether there is anything under a key, also what evac did not write or cannot read."""
        try:
            await self.get(key)
        except (Corrupt, NotAllowed):
            return True
        return self._read[key] > 0

    def put(self, key: str, value: Any) -> None:
        """Changes a key that was read."""
        assert key in self._read
        self._values[key] = value
        self._changed.add(key)

    def permit(self) -> Permit:
        compares = tuple(Compare(key, revision) for key, revision in sorted(self._read.items()))
        changes: list[Change] = []
        for key in sorted(self._changed):
            value = self._values[key]
            changes.append(Delete(key) if value is None else Put(key, orjson.dumps(value)))
        return Permit(compares, tuple(changes))


async def read_hold(store: Store, key: str = HOLD_KEY) -> dict[str, Any] | None:
    """Who placed the hold, and why, as journals record it; None if there is none. One that evac did not write
    or that cannot be read holds everything as well. key: or `HOLD_ENDED`. Raises Unavailable.
    """
    try:
        entry = await store.get(key)
    except Corrupt as error:
        return {"who": "someone else", "reason": error.message}
    if entry is None:
        return None
    try:
        told = orjson.loads(entry.value)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return {"who": SOMEBODY, "reason": "it cannot be read"}
    data: dict[str, Any] = {"who": str(told.get("who", ""))[:NAME_MOST] or SOMEBODY}
    data["reason"] = str(told.get("reason", ""))[:REASON_MOST]
    with contextlib.suppress(ValueError, TypeError, AttributeError):  # no run can replay a false one
        if proof := told.get("proof"):
            data["proof"] = replace(Proven.from_data(proof), mark="").to_data()
    return data


class Guards:
    """Checks against the present store. serving: sites that run services; pooled: service -> the sites its
    traffic goes to unless the store says otherwise.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        serving: Iterable[str],
        pooled: Mapping[str, Sequence[str]],
    ) -> None:
        self._store, self._clock = store, clock
        self._serving, self._pooled = frozenset(serving), pooled

    def pool(self, pooled: Mapping[str, Sequence[str]]) -> None:
        """Updates where traffic goes after the estate changed."""
        self._pooled = pooled

    async def may_leave(self, leaving: Sequence[str], mark: Mark, typed: Sequence[str] = ()) -> Permit:
        """Permit to evacuate these sites or mark them lost. typed: names that a person typed for it.

        Raises `NotAllowed` if no site would be left (nothing overrides that), if another site is left already
        and not all names were typed, or if the site is left already.
        """
        draft = Draft(self._store)
        register = await _register(draft)
        for site in leaving:
            if register.get(site) != "active":
                raise NotAllowed(
                    "site-left",
                    f"{site} is {register.get(site, 'not in the register')} already",
                    f"evac run list shows the run that evacuates it; if there is none and {site} is healthy: "
                    f"evac site clear {site} --reason WHY",
                )
        left = [site for site, state in register.items() if state != "active" and site not in leaving]
        names = {*leaving, *left}
        if len(names) > 1 and not names <= set(typed):
            raise NotAllowed(
                "second-site",
                f"{', '.join(sorted(names))} would be evacuated at the same time",
                f"type all of the names to continue: {', '.join(sorted(names))}",
            )
        if not (self._serving - names):
            raise NotAllowed("every-site", "no site would be left to serve users", "restore a site first")
        draft.put(SITES_KEY, register | dict.fromkeys(leaving, mark))
        return draft.permit()

    async def may_mark(self, sites: Sequence[str], mark: Mark) -> Permit:
        """Permit to mark sites that are left as returned (`active`) or left completely (`evacuated`)."""
        draft = Draft(self._store)
        register = await _register(draft)
        unknown = [site for site in sites if site not in register]
        if unknown:
            raise NotAllowed("site-unknown", f"{', '.join(unknown)} is not in the register of sites")
        back = [site for site in sites if mark != "active" and register[site] == "active"]
        if back:
            raise NotAllowed(
                "site-back",
                f"{', '.join(back)} came back in the meantime; a run that is ending does not evacuate it",
                "evacuate it with a run of its own",
            )
        draft.put(SITES_KEY, register | dict.fromkeys(sites, mark))
        return draft.permit()

    async def may_act(
        self, steps: Iterable[tuple[str, Sequence[Action]]], windows: Sequence[Window]
    ) -> Permit:
        """Permit to begin these steps: (site, actions). windows: maintenance windows that apply to the
        caller. Raises `Retryable` during a hold or window, and `NotAllowed` for anything that leads to a
        forbidden state.
        """
        draft, asked = Draft(self._store), list(steps)
        if any(action.verb in _TRAFFIC for _, actions in asked for action in actions):
            await draft.read(HOLD_KEY, SITES_KEY, POOLED_KEY)
        await self._no_hold(draft)
        for site, actions in asked:
            self._no_window({site, *(action.at for action in actions)}, windows)
            for action in actions:
                await self._may(draft, action)
        return draft.permit()

    async def may_take_back(self, steps: Iterable[tuple[str, Sequence[Action]]]) -> Permit:
        """Permit to undo these steps: traffic never returns to a site that is left."""
        draft = Draft(self._store)
        await self._no_hold(draft)
        for _, actions in steps:
            for action in actions:
                if action.verb == "shift":
                    await self._may_shift_back(draft, action)
        return draft.permit()

    def in_window(self, sites: Iterable[str], windows: Sequence[Window]) -> bool:
        """Whether one of these sites is in one of these maintenance windows now."""
        return self._window_of(set(sites), windows) is not None

    async def _no_hold(self, draft: Draft) -> None:
        if await draft.exists(HOLD_KEY):
            told = await read_hold(self._store) or {"who": SOMEBODY, "reason": "it has just been released"}
            words = f"{told['who']} put everything on hold: {told['reason']}"
            raise Retryable("held", words, "evac hold --release", HOLD_AGAIN_MS)

    def _no_window(self, sites: set[str], windows: Sequence[Window]) -> None:
        window = self._window_of(sites, windows)
        if window is not None:
            raise Retryable(
                "maintenance",
                f"maintenance: {window.reason or 'no effect on these sites'}",
                "wait for it to end: a run keeps the windows it was created under",
                window.end_ms - self._clock.now_ms(),
            )

    def _window_of(self, sites: set[str], windows: Sequence[Window]) -> Window | None:
        now_ms = self._clock.now_ms()
        for window in windows:
            here = not window.sites or bool(sites & set(window.sites))
            if here and window.begin_ms <= now_ms < window.end_ms:
                return window
        return None

    async def _may(self, draft: Draft, action: Action) -> None:
        if action.verb == "shift":
            await self._may_shift(draft, action)
        elif action.verb == "drain":
            await self._may_drain(draft, action)
        elif action.verb == "ready":
            await self._may_ready(draft, action)

    async def _may_shift(self, draft: Draft, action: Action) -> None:
        to, away = str(action.parameters.get("to", "")), _names(action.parameters.get("away", ""))
        if to in away:
            raise NotAllowed("pooled-nowhere", f"{action.target} would move both to and away from {to}")
        await self._must_be_active(draft, to, action.target)
        pools = await self._pools(draft, action.target)
        whole = int(str(action.parameters.get("share", WHOLE))) >= WHOLE
        await self._pool(draft, action.target, (pools | {to}) - (away if whole else set()))

    async def _may_shift_back(self, draft: Draft, action: Action) -> None:
        back = _names(action.parameters.get("away", ""))
        for site in sorted(back):  # one that is just being left still serves
            await self._must_be_active(draft, site, action.target, ("active", "evacuating"))
        await self._pool(draft, action.target, await self._pools(draft, action.target) | back)

    async def _may_drain(self, draft: Draft, action: Action) -> None:
        site = str(action.parameters.get("site", "") or action.at)
        pools = await self._pools(draft, action.target)
        register = await _register(draft)
        rest = pools - {site}
        if not any(register.get(other) == "active" for other in rest):
            raise NotAllowed(
                "pooled-nowhere",
                f"without {site}, no site would take the traffic of {action.target}",
                "prepare another site first",
            )
        await self._pool(draft, action.target, rest)

    async def _may_ready(self, draft: Draft, action: Action) -> None:
        site = str(action.parameters.get("site", "") or action.at)
        await self._must_be_active(draft, site, action.target)
        pools = await self._pools(draft, action.target)
        await self._pool(draft, action.target, pools | {site})

    async def _must_be_active(
        self, draft: Draft, site: str, service: str, good: Collection[str] = ("active",)
    ) -> None:
        state = (await _register(draft)).get(site, "not in the register of sites")
        if state not in good:
            raise NotAllowed(
                "site-left",
                f"{service} cannot take traffic at {site or 'no site'}: it is {state}",
                "restore the site first",
            )

    async def _pools(self, draft: Draft, service: str) -> set[str]:
        everything = await draft.get(POOLED_KEY)
        if everything is not None and not isinstance(everything, dict):
            raise _unreadable(POOLED_KEY)
        stored = (everything or {}).get(service, list(self._pooled.get(service, ())))
        if not isinstance(stored, list) or not all(isinstance(site, str) for site in stored):
            raise _unreadable(POOLED_KEY)
        return set(stored)

    async def _pool(self, draft: Draft, service: str, sites: set[str]) -> None:
        everything = await draft.get(POOLED_KEY) or {}
        if everything.get(service) != sorted(sites):
            draft.put(POOLED_KEY, everything | {service: sorted(sites)})


async def ensure_register(store: Store, sites: Iterable[str]) -> Permit:
    """A permit that adds unknown sites to the register as active; empty if it has them all."""
    draft = Draft(store)
    known = await draft.get(SITES_KEY)
    register = _checked({} if known is None else known)
    missing = [site for site in sites if site not in register]
    if not missing:
        return Permit()
    draft.put(SITES_KEY, register | dict.fromkeys(missing, "active"))
    return draft.permit()


async def read_register(store: Store) -> dict[str, Mark]:
    """Site -> mark; empty before the first controller made it. Raises `NotAllowed` if it is unreadable."""
    return (await read_register_as_is(store))[0]


async def read_register_as_is(store: Store) -> tuple[dict[str, Mark], Permit]:
    """The register, and a permit that holds only while it stays the same."""
    draft = Draft(store)
    known = await draft.get(SITES_KEY)
    return {} if known is None else _checked(known), draft.permit()


async def _register(draft: Draft) -> dict[str, Mark]:
    known = await draft.get(SITES_KEY)
    if known is None:
        raise NotAllowed(
            "register-missing", "the register of sites does not exist", "start a controller: evac serve"
        )
    return _checked(known)


def _checked(known: Any) -> dict[str, Mark]:
    if not isinstance(known, dict) or not all(isinstance(m, str) and m in _MARKS for m in known.values()):
        raise _unreadable(SITES_KEY)
    return known


def _names(value: object) -> set[str]:
    if isinstance(value, str):
        return {name for name in value.split(",") if name}
    return set(value) if isinstance(value, tuple) else set()


def _unreadable(key: str) -> NotAllowed:
    return NotAllowed(
        "guard-unreadable", f"cannot read the contents of {key}, so nothing is allowed", "evac run verify"
    )
