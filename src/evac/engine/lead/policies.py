"""The policy in use, which may change while a controller runs, and the policy that each run was made under.

Holds the present policy and, for each open run, the one it was made under (stored with the run under
`open/`). New work gets the present policy; a run gets the stricter of both, key by key. Only the code that
reads the files replaces the policy.

The rule, also across restarts and leaders with other files: no policy loosens what a run was made under.
Stricter keys apply to it at once; looser keys apply to new runs only. What a run is bound to stays: its
steps, approvals, limits, pace, timeouts and number of approvers. Who may approve follows the policy in use,
because keys get lost and people leave; where someone had to sign, someone still has to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, Final, get_args

from evac.model.digest import digest
from evac.model.run_policy import (
    Approver,
    Envelope,
    Mode,
    Pace,
    Patience,
    RunPolicy,
    StorePolicy,
    WatchProfile,
    Window,
)

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
"""The strictest first."""
PROMOTIONS: Final = ("never", "ask", "allow")
"""Likewise."""
SYNC_LOSSES: Final = ("ask", "next", "async")
"""Likewise."""
KEYS: Final[Mapping[str, str]] = MappingProxyType({"profile": "watch", "pause_most_ms": "longest_pause"})
"""What a field is called in a policy file, where that is another name."""


class Policies:
    """One per desk. now: the policy in use."""

    def __init__(self, now: RunPolicy) -> None:
        self.now = now
        self._made: dict[str, RunPolicy] = {}
        self._held: dict[str, tuple[RunPolicy, RunPolicy]] = {}

    def keep(self, run: str, made: RunPolicy) -> None:
        """Records the policy that an open run was made under."""
        self._made[run] = made
        self._held.pop(run, None)

    def forget(self, *runs: str) -> None:
        """Forgets one run, or all without a name."""
        for run in runs or tuple(self._made):
            self._made.pop(run, None)
            self._held.pop(run, None)

    def made(self, run: str) -> RunPolicy:
        """The policy a run was made under; the policy in use if the run is not open."""
        return self._made.get(run, self.now)

    def of(self, run: str) -> RunPolicy:
        """The policy that applies to a run now."""
        if run not in self._made:
            return self.now
        held = self._held.get(run)
        if held is None or held[0] is not self.now:
            held = self._held[run] = (self.now, stricter(self._made[run], self.now))
        return held[1]

    @property
    def digest(self) -> str:
        """Of the policy in use."""
        return digest_of(self.now)

    @property
    def asks_generation(self) -> bool:
        """Whether an effect waits for the agent of its site: if the policy in use or any open run requires
        it.
        """
        return any(one.generation == "asked" for one in (self.now, *self._made.values()))

    @property
    def held(self) -> tuple[str, ...]:
        """Open runs whose effective policy differs from the policy in use."""
        return tuple(sorted(run for run in self._made if changes(self.now, self.of(run))))


def stricter(made: RunPolicy, now: RunPolicy) -> RunPolicy:
    """The effective policy of a run made under one policy while another is in use."""
    if made == now:
        return made
    names = sorted({*made.stores, *now.stores})
    return replace(
        made,
        mode=min(made.mode, now.mode, key=MODES.index),
        approvals=max(made.approvals, now.approvals),
        approvers=now.approvers or made.approvers,
        rooms=now.rooms or made.rooms,
        controllers=now.controllers or made.controllers,
        envelope=_within_both(made.envelope, now.envelope),
        stores=MappingProxyType({name: _store(made.store(name), now.store(name)) for name in names}),
        windows=tuple(dict.fromkeys((*made.windows, *now.windows))),
        four_eyes=made.four_eyes or now.four_eyes,
        generation="asked" if "asked" in (made.generation, now.generation) else "told",
    )


def _within_both(one: Envelope, other: Envelope) -> Envelope:
    return Envelope(
        tuple(site for site in one.sites if site in other.sites),
        tuple(store for store in one.stores if store in other.stores),
        min(one.most_lost_ms, other.most_lost_ms),
        min(one.most_shed, other.most_shed),
    )


def _store(made: StorePolicy, now: StorePolicy) -> StorePolicy:
    return StorePolicy(
        made.store,
        tuple(proof for proof in made.proofs if proof in now.proofs),
        made.self_fence and now.self_fence,
        now.lease_ttl_ms,
        min(made.on_sync_loss, now.on_sync_loss, key=SYNC_LOSSES.index),
        min(made.async_promotion, now.async_promotion, key=PROMOTIONS.index),
        min(made.most_lost_ms, now.most_lost_ms),
    )


def changes(old: RunPolicy, new: RunPolicy) -> tuple[str, ...]:
    """Keys of a policy file, and `stores/NAME`, whose values changed."""
    found = [
        KEYS.get(one.name, one.name)
        for one in fields(RunPolicy)
        if one.name != "stores" and getattr(old, one.name) != getattr(new, one.name)
    ]
    names = sorted({*old.stores, *new.stores})
    return (*found, *(f"stores/{name}" for name in names if old.store(name) != new.store(name)))


def digest_of(policy: RunPolicy) -> str:
    """`sha256:` and the digest of its values, independent of how the file is written."""
    return digest(to_data(policy))


def to_data(policy: RunPolicy) -> dict[str, Any]:
    """Plain values for JSON."""
    found: dict[str, Any] = _plain(policy)
    for name in (
        "rooms",
        "controllers",
        "access_log_ms",
    ):  # as before there were such keys: digests in journals stay
        if not found[name]:
            del found[name]
    if "controllers" in found:  # as before there could be several keys
        found["controllers"] = {
            site: keys[0] if len(keys) == 1 else keys for site, keys in found["controllers"].items()
        }
    return found


def from_data(told: Mapping[str, Any]) -> RunPolicy:
    """Missing keys get their careful default. Raises ValueError, KeyError, TypeError for anything else,
    including keys that this version does not know: one may be a guard.
    """
    given = dict(told)
    try:
        for name, make in _PARTS.items():
            if name in given:
                given[name] = make(given[name])
    except AttributeError as error:  # a number stands where a mapping belongs
        raise TypeError(f"this is not a policy: {error}") from error
    return RunPolicy(**given)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _tuples(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}


_PARTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "approvers": lambda rows: tuple(Approver(**row) for row in rows),
        "envelope": lambda told: Envelope(**_tuples(told)),
        "profile": lambda told: WatchProfile(**told),
        "stores": lambda rows: MappingProxyType(
            {name: StorePolicy(**_tuples(row)) for name, row in rows.items()}
        ),
        "windows": lambda rows: tuple(Window(**_tuples(row)) for row in rows),
        "patience": lambda told: Patience(**told),
        "pace": lambda told: Pace(**_tuples(told)),
        "rooms": lambda told: MappingProxyType(dict(told)),
        "controllers": lambda told: MappingProxyType(
            {site: (keys,) if isinstance(keys, str) else tuple(keys) for site, keys in told.items()}
        ),
        "driver_limits": lambda told: MappingProxyType({name: int(most) for name, most in told.items()}),
    }
)
