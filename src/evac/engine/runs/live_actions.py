"""Parameters of actions that are only known at run time.

A fence by a synchronous replica relies on a fact checked while all was well. A promotion names the proof of
its fence and, after a planned evacuation, the last position that the candidate must have.

A fact from before a change of who confirms commits proves nothing. So it carries the number of that change,
is written only if the store's epoch is unchanged since before the look, and is refused under another number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.drivers.capabilities import ProvesSync
from evac.drivers.port import Action, Value
from evac.drivers.registry import can
from evac.engine.stores.datasets import Epoch, key_of
from evac.model.errors import Conflict, NotAllowed
from evac.model.records import dataclass
from evac.model.step_id import StepId
from evac.store.port import Compare, Lease, Put, Store

PREFIX: Final = "standing/"


@dataclass(frozen=True, slots=True)
class Standing:
    """Checked at `at_ms` on the healthy primary: each commit of `store` needs `member` at site
    `candidate`.
    """

    store: str
    member: str
    candidate: str
    primary: str
    at_ms: int
    changes: int
    """Of the store's epoch, read before the check began."""

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "member": self.member,
                "candidate": self.candidate,
                "primary": self.primary,
                "at_ms": self.at_ms,
                "changes": self.changes,
            }
        )


def decode_standing(store: str, value: bytes) -> Standing:
    """Raises NotAllowed for what cannot be read: an unreadable fact proves nothing."""
    try:
        found = orjson.loads(value)
        return Standing(
            store,
            str(found["member"]),
            str(found["candidate"]),
            str(found["primary"]),
            int(found["at_ms"]),
            int(found["changes"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise NotAllowed("guard-unreadable", f"cannot read the stored fact about {store}") from error


async def keep_standing(keys: Store, fact: Standing, before: Epoch, guard: Lease) -> bool:
    """Writes a fact unless a change of its store was begun since its epoch was read (before the look) or is
    in progress. Returns whether it was written.
    """
    if before.begun or fact.changes != before.changes:
        return False
    compare = Compare(key_of(fact.store), before.revision)
    try:
        await keys.transact((compare,), (Put(PREFIX + fact.store, fact.encode()),), guard)
    except Conflict:
        return False
    return True


def refuse_old_standing(action: Action, epoch: Epoch) -> None:
    """Raises `NotAllowed` for a fence by a synchronous replica without a fact, or with one from before a
    change of who confirms commits. Checked here as well as in the driver, because the start compares this
    epoch.
    """
    if (
        action.verb != "fence"
        or action.parameters.get("proof") != "sync"
        or not can(action.driver, ProvesSync)
    ):
        return
    if ahead_ms := action.parameters.get("standing_ahead_ms"):
        assert isinstance(ahead_ms, int)
        why = f"by this controller's clock, the advance check is {ahead_ms // 1_000} s in the future"
    elif "standing" not in action.parameters:
        why = "no check in advance confirmed that every commit needs this replica"
    elif action.parameters.get("standing_changes") != epoch.changes:
        why = "the replicas that confirm commits changed since the advance check"
    else:
        return
    raise NotAllowed(
        "fence-unproven",
        f"{epoch.store}: {why}, so this proves nothing",
        "fence by network, by power, or by hand",
    )


class LiveActions:
    """Completed actions by step id in the run. evidence: of the newest step with a plan's id, empty while
    there is none; standing: of a store, as last read.
    """

    def __init__(
        self,
        actions: Callable[[str], tuple[Action, ...]],
        evidence: Callable[[str], Mapping[str, Any]],
        standing: Callable[[str], Standing | None],
        now_ms: Callable[[], int],
    ) -> None:
        self._actions, self._evidence = actions, evidence
        self._standing, self._now_ms = standing, now_ms

    def __call__(self, step: str) -> tuple[Action, ...]:
        found = self._actions(step)
        if not any(action.verb in ("fence", "promote") for action in found):
            return found
        return tuple(self._completed(action) for action in found)

    def _completed(self, action: Action) -> Action:
        more: dict[str, Value] = {}
        if action.verb == "fence" and action.parameters.get("proof") == "sync":
            more = self._standing_of(action)
        elif action.verb == "promote":
            more = self._proof_of(action)
        if not more:
            return action
        return replace(
            action, parameters=MappingProxyType(dict(sorted({**action.parameters, **more}.items())))
        )

    def _standing_of(self, action: Action) -> dict[str, Value]:
        """Only if it was seen for this candidate and this old primary, and not in the future."""
        fact = self._standing(action.target)
        if fact is None or (fact.candidate, fact.primary) != (
            action.parameters.get("candidate"),
            action.parameters.get("old"),
        ):
            return {}
        age_ms = self._now_ms() - fact.at_ms
        if age_ms < 0:
            return {"standing_ahead_ms": -age_ms}
        return {"standing": fact.member, "standing_age_ms": age_ms, "standing_changes": fact.changes}

    def _proof_of(self, action: Action) -> dict[str, Value]:
        seen = self._evidence(str(StepId("fence", action.target)))
        more: dict[str, Value] = {}
        if "attested_by" in seen:
            more["proof"] = "attest"
        elif "proof" in seen:
            more["proof"] = str(seen["proof"])
        if "last_lsn" in seen:
            more["least_lsn"] = str(seen["last_lsn"])
        return more
