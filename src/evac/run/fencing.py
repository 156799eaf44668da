"""The ladder of fence proofs: which of them a store's policy accepts, and whether the facts prove one. Pure.

Invariant: no promotion without a proof that is complete before it. What is not known proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from evac.model.run_policy import FENCE_PROOFS, Proof, StorePolicy
from evac.steps.registry import kind_of

if TYPE_CHECKING:
    from evac.run.view import RunView


@dataclass(frozen=True, slots=True)
class SyncFacts:
    """Seen while all was well, `age_ms` ago: strict synchronous replication to exactly `candidates`, no
    `synchronous_commit` below it.
    """

    age_ms: int
    strict: bool
    candidates: tuple[str, ...]
    candidate_site: str
    commit_below: bool
    receiver_stopped: bool = False
    """At the fire, the candidate stopped receiving for good."""


@dataclass(frozen=True, slots=True)
class FenceFacts:
    """What is known of one store's old primary; None where nothing is known."""

    lost_sites: tuple[str, ...] = ()
    lease_over_ms: int | None = None
    """How long ago its members' lease ended, by the clock of whoever asks."""
    sync: SyncFacts | None = None
    network_closed: bool | None = None
    power_off: bool | None = None
    """Confirmed by the device itself."""
    attested_by: str = ""
    """The person who vouches, with the reason."""
    attest_reason: str = ""


@dataclass(frozen=True, slots=True)
class Proved:
    """A rung of the ladder holds."""

    proof: Proof
    """The rung that holds."""


@dataclass(frozen=True, slots=True)
class NotProved:
    """Why no accepted rung holds: one sentence a rung."""

    reasons: tuple[str, ...]


def prove(
    policy: StorePolicy, facts: FenceFacts, margin_ms: int = 2_000, shelf_ms: int = 60_000
) -> Proved | NotProved:
    """The first rung of the ladder that the policy accepts and the facts prove.

    margin_ms: for clocks that drift, on top of the end of a lease. shelf_ms: how old a standing fact of
    synchronous replication may be.
    """
    reasons = []
    for proof in FENCE_PROOFS:
        why = (
            f"{proof}: the policy does not accept it for {policy.store}"
            if proof not in policy.proofs
            else _RUNGS[proof](policy, facts, margin_ms, shelf_ms)
        )
        if not why:
            return Proved(proof)
        reasons.append(why)
    return NotProved(tuple(reasons))


def _lease(policy: StorePolicy, facts: FenceFacts, margin_ms: int, _: int) -> str:
    if not policy.self_fence:
        return "lease: members of this store do not fence themselves"
    if facts.lease_over_ms is None:
        return "lease: not known to have expired"
    if facts.lease_over_ms < margin_ms:
        return f"lease: it expired {facts.lease_over_ms} ms ago; the clock margin is {margin_ms} ms"
    return ""


def _sync(policy: StorePolicy, facts: FenceFacts, _: int, shelf_ms: int) -> str:
    seen = facts.sync
    if seen is None:
        return "sync: not checked while all was well"
    if seen.age_ms > shelf_ms:
        return f"sync: last checked {seen.age_ms} ms ago, which is too long ago"
    if not seen.strict or seen.commit_below:
        return "sync: the primary may acknowledge without the replica"
    if len(seen.candidates) != 1:
        return f"sync: {len(seen.candidates)} replicas may acknowledge; it must be exactly one"
    if seen.candidate_site in facts.lost_sites:
        return "sync: the only candidate is at a lost site"
    if not seen.receiver_stopped:
        return "sync: the candidate is still receiving"
    return ""


def _network(policy: StorePolicy, facts: FenceFacts, _: int, __: int) -> str:
    return "" if facts.network_closed is True else "network: the path was not seen closed"


def _power(policy: StorePolicy, facts: FenceFacts, _: int, __: int) -> str:
    return "" if facts.power_off is True else "power: it never read as off"


def _attest(policy: StorePolicy, facts: FenceFacts, _: int, __: int) -> str:
    if not facts.attested_by or not facts.attest_reason:
        return "attest: no one has confirmed it by name and with a reason"
    return ""


def _none(policy: StorePolicy, facts: FenceFacts, _: int, __: int) -> str:
    """Reached only where policy itself says that nothing need be fenced."""
    return ""


_RUNGS: Final[Mapping[Proof, Callable[[StorePolicy, FenceFacts, int, int], str]]] = MappingProxyType(
    {"lease": _lease, "sync": _sync, "network": _network, "power": _power, "attest": _attest, "none": _none}
)


def fences_of(view: RunView) -> dict[str, list[int]]:
    """Data set -> the numbers of its fences in the present plan. One that a newer plan does by other means is
    of an earlier plan: whoever skipped it need not make it after all.
    """
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for i, step in enumerate(view.steps):
        if kind_of(step.kind).fences and i not in view.leftover:
            key, turn = (step.data_set or step.target, str(step.id.in_plan)), (step.id.turn, i)
            newest[key] = max(newest.get(key, turn), turn)
    found: dict[str, list[int]] = {}
    for (data_set, _), (_, i) in newest.items():
        found.setdefault(data_set, []).append(i)
    return found


LASTING: Final[frozenset[str]] = frozenset({"network", "power"})
"""Proofs that hold only as long as a device stays as it was put: somebody may switch it back."""


def lasting_fences(view: RunView, step: str) -> list[str]:
    """The fences of the store that a step promotes which stand on a device, and on nobody's word."""
    mine = view.steps[view.number(step)]
    fences = fences_of(view) if view.agenda is None else view.agenda.fences
    return [
        view.steps[i].id
        for i in fences.get(mine.data_set or mine.target, [])
        if view.phases[i] == "succeeded"
        and view.evidence.get(i, {}).get("proof") in LASTING
        and "attested_by" not in view.evidence[i]
    ]


def is_fenced(view: RunView, i: int, fences: Mapping[str, list[int]]) -> bool:
    """Whether every fence of the store that step i promotes is done or attested; a skipped one is not."""
    step = view.steps[i]
    mine = fences.get(step.data_set or step.target, [])
    return bool(mine) and all(view.phases[j] == "succeeded" for j in mine)
