"""Requests for a run, or to settle doubt about an ended one, and their answers.

    proposal/<id>      {"incident", "plan", "reason", "mode", "leaving", "mark", "ends", "typed", "who",
                        "abandoned", "asked"}
    answer/<id>        {"run"} of the run that was made of it, or {"refused", "code", "kind", "hint"}

Answers of older leaders have neither kind nor hint. `asked` is a request (`requests.encode`) that proves who
proposed: its evidence names the digest of the other fields. Older programs write none.

A proposal can be withdrawn until it is answered. So the answer is written in the transaction that creates the
run, and only while the proposal is unchanged: either there is a run with an answer, or the proposal was
withdrawn and there is neither.

For an ended run, a person states where the primary is of a store that it left in doubt.

    request/<run>/<id>            what is asked of a run that no one carries out any more
    vouched/<store>/<epoch>       who said what, and why: written with the epoch, in one transaction

While a promotion is in doubt, no other promotion of that store can begin; only a person who looked can settle
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Final

import orjson

from evac.drivers.port import Action
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.engine.plans.library import get_plan
from evac.engine.runs import requests
from evac.engine.runs.proving import GOOD_MS
from evac.engine.runs.reading import incident_key, run_of_incident
from evac.engine.stores import datasets
from evac.engine.stores.datasets import DataSets, Epoch
from evac.engine.stores.guards import Mark, Permit
from evac.model import errors
from evac.model.access import Proven
from evac.model.digest import canonical_json
from evac.model.names import alike
from evac.model.observation import LeavingSite
from evac.model.records import dataclass
from evac.model.run_policy import Envelope
from evac.model.step_id import StepId, plan_id
from evac.model.units import moment_words
from evac.net.internal_errors import foreseen
from evac.run import envelope
from evac.run.values import SETTLED
from evac.run.view import RunView
from evac.store.port import Compare, Delete, Entry, Lease, Put, Store
from evac.views.situation_view import abandon_hint, site_words

REPLACEABLE: Final = frozenset({"pending", "awaiting_approval", "running", "paused", "monitoring"})
"""Phases in which a run takes another plan."""


@dataclass(frozen=True, slots=True)
class Concerned:
    """An open run as another loss sees it."""

    run: str
    accounted: frozenset[str]
    """Sites that its plan counts as lost."""
    leaving: tuple[str, ...]
    untyped: tuple[str, ...]
    """Sites whose names it waits for."""
    places: frozenset[str]
    """Sites at which it still has work."""
    plans: int
    """How many it had."""
    halls: tuple[str, ...] = ()
    """Halls counted as lost, at sites that it does not leave."""


def places_of(view: RunView, actions_of: Callable[[RunView, str], Sequence[Action]]) -> frozenset[str]:
    """Sites with remaining or running steps."""
    found: set[str] = set()
    for i, step in enumerate(view.steps):
        if view.phases[i] in SETTLED:
            continue
        found.add(step.site)
        for action in actions_of(view, step.id):
            given = action.parameters
            found |= {action.at, str(given.get("to", "")), str(given.get("candidate", ""))}
    return frozenset(found - {""})


def ends_after(ends: Mapping[str, Mark], gone: Collection[str]) -> dict[str, Mark]:
    """What the register records at the end of a run whose plan was replaced: a lost site stays lost."""
    return {site: mark for site, mark in ends.items() if site not in gone and mark != "active"}


def asks_of(view: RunView, agreed: Envelope) -> tuple[str, ...]:
    """What a person must agree to before the run continues; empty if nothing."""
    needed = view.spec.envelope
    given = (envelope.outside(one, needed) for one in view.approvals.given.values())
    closest = min(given, key=len, default=envelope.outside(agreed, needed))
    asks = (closest or ("an approval",)) if view.approvals.counted < view.spec.approvals else ()
    return (*asks, *(f"the typed name of {site}" for site in view.approvals.untyped))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A requested run."""

    incident: str
    plan: bytes
    reason: str
    mode: str
    leaving: tuple[str, ...] = ()
    mark: Mark = "lost"
    """Sites that it leaves, and their marks in the register meanwhile."""
    ends: Mapping[str, Mark] = field(default_factory=dict)
    """Marks to set once the run succeeds."""
    approvals: int | None = None
    """None: by policy; 0: policy agreed beforehand."""
    typed: tuple[str, ...] = ()
    """Site names that a person typed."""
    names: tuple[str, ...] = ()
    """Sites that a person must type before it continues; until then the register does not record them as
    left.
    """
    who: str = ""
    """Who requested it; empty if evac did."""
    abandoned: tuple[str, ...] = ()
    """Sites that a person leaves as lost although they answer."""
    proof: Proven = field(default_factory=Proven)
    """How the requester was proven."""
    halls: tuple[str, ...] = ()
    """Halls lost at live sites."""

    @property
    def places(self) -> tuple[str, ...]:
        """Sites where something is lost or given up."""
        return (*self.leaving, *(hall.partition("/")[0] for hall in self.halls))

    @property
    def asked_by(self) -> dict[str, Any]:
        """The requester for the run's first record; empty if evac requested it."""
        proof = {"proof": self.proof.to_data()} if self.proof.kind != "trust" else {}
        return {"who": self.who, **proof} if self.who else {}


def proposing(number: str, told: Mapping[str, Any], at_ms: int) -> requests.Request:
    """What a person, or a war room, signs to own a proposal. told: all other fields."""
    evidence = {"proposal": hashlib.sha256(canonical_json(dict(told))).hexdigest()}
    who, reason = str(told.get("who", "")), str(told["reason"])
    return requests.Request(number, "resume", who, reason, at_ms=at_ms, evidence=evidence)


def _asked(entry: Entry, told: Mapping[str, Any]) -> requests.Request:
    """The proposer and the proof. Raises NotAllowed if the proof is for another proposal."""
    rest = {name: value for name, value in told.items() if name != "asked"}
    bare = proposing(entry.key.removeprefix(PROPOSAL), rest, 0)
    if not told.get("asked"):
        return bare
    found = requests.decode(entry.key, orjson.dumps(told["asked"]))
    about = (found.verb, found.who, found.reason, found.evidence)
    if about != (bare.verb, bare.who, bare.reason, bare.evidence):
        raise errors.NotAllowed(
            "proof-invalid",
            f"the proof of identity of {bare.who[:80]} is for a different request",
            "ask again",
        )
    return found


PROPOSAL: Final = "proposal/"
ANSWER: Final = "answer/"


def answered(entry: Entry | None, answer: Mapping[str, str]) -> Permit:
    """Replaces a proposal with its answer, unless it was withdrawn; nothing if there was none."""
    if entry is None:
        return Permit()
    key = ANSWER + entry.key.removeprefix(PROPOSAL)
    changes = (Delete(entry.key), Put(key, orjson.dumps(answer)))
    return Permit((Compare(entry.key, entry.revision),), changes)


def refused(error: errors.EvacError) -> dict[str, str]:
    """The answer of a leader that refuses: why, and the kind of error."""
    return {"refused": error.message, "code": error.code, "kind": errors.kind_of(error), "hint": error.hint}


_MADE: Final = re.compile(rf"{PROPOSAL}([0-9]{{13}})-[0-9a-f]{{12}}")
"""Key of a proposal that evac made, and when. A sealed store contains the key in the seal of the value."""


def _must_be_recent(entry: Entry, now_ms: int) -> None:
    """Raises NotAllowed for a proposal as old as no signature may be. It was withdrawn or answered long ago,
    and someone put it back; or nobody led, and what was right then may not be now. Refuses a name that does
    not tell the age.
    """
    made = _MADE.fullmatch(entry.key)
    if made is None:
        words = f"{entry.key[:80]!a} does not have the name of a proposal, so its age is unknown"
        raise errors.NotAllowed("proposal-misnamed", words, "propose it again: evac apply PLAN --execute")
    if now_ms - int(made[1]) >= GOOD_MS:
        raise errors.NotAllowed(
            "proposal-old",
            f"this was proposed at {moment_words(int(made[1]) // 1_000)}; the leader's clock says "
            f"{moment_words(now_ms // 1_000)}, and a proposal is valid for {GOOD_MS // 60_000} minutes",
            "propose it again; if it was just proposed, one of the two clocks is wrong: set it first",
        )


async def wanted_of(
    store: Store,
    entry: Entry,
    now_ms: int,
    under_way: Iterable[str] = (),
    prove: Callable[[requests.Request], Awaitable[Proven]] | None = None,
) -> Wanted:
    """The proposal with its plan. under_way: names of open runs; prove: how the person was proven. Raises
    RunError for unreadable data; NotAllowed for a proposal that is old or that evac did not name, for a
    person not proven as required, and for an incident that has a run or resembles that of an open one;
    Corrupt without the plan.
    """
    _must_be_recent(entry, now_ms)
    try:
        told: dict[str, Any] = orjson.loads(entry.value)
        asked = _asked(entry, told)
        wanted = Wanted(
            str(told["incident"]),
            await get_plan(store, told["plan"]),
            str(told["reason"]),
            str(told.get("mode", "hold")),
            tuple(told.get("leaving", ())),
            told.get("mark", "evacuating"),
            dict(told.get("ends", {})),
            None,
            tuple(told.get("typed", ())),
            (),
            str(told.get("who", "")),
            tuple(told.get("abandoned", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.RunError("proposal-unreadable", f"{entry.key} cannot be read") from error
    if prove is not None:
        wanted = replace(wanted, proof=await prove(asked))
    await _must_have_no_run(store, wanted.incident)
    incidents = (run.rpartition("-")[0] for run in under_way)
    other = next((one for one in incidents if alike(one) == alike(wanted.incident)), None)
    if other is not None:
        words = f"{wanted.incident!a} looks the same as {other!a}, which has an open run"
        raise errors.NotAllowed("incident-lookalike", words, "give the incident another name")
    return wanted


async def _must_have_no_run(store: Store, incident: str) -> None:
    """Raises NotAllowed naming the run that an incident has: someone applying twice wants to know it."""
    made = await store.get(incident_key(incident))
    if made is None:
        return
    run = run_of_incident(made.value) or incident
    words = f"incident {incident} already has a run: {run}"
    raise errors.NotAllowed(
        "incident-has-run", words, f"evac run show {run}; for anything else, name another incident"
    )


ANSWERS: Final = "site-answers"


def must_be_abandoned(seen: Sequence[LeavingSite], abandoned: Collection[str]) -> None:
    """Raises NotAllowed for a site that answers or is the last one, unless it was declared abandoned."""
    asked = [one for one in seen if one.state == "answers" or one.is_last]
    left = [one for one in asked if one.site not in abandoned]
    if left:
        words = "; ".join(site_words(one) for one in left)
        command = "evac apply PLAN ESTATE --execute"
        raise errors.NotAllowed(ANSWERS, words, abandon_hint([one.site for one in left], command))


REQUESTS: Final = "request/"
VOUCHED: Final = "vouched/"
AGAIN_S: Final = 0.5


class Vouching:
    """Answers requests to ended runs while we lead. open_prefix: of the keys of open runs. check: how the
    person was proven; raises NotAllowed.
    """

    def __init__(
        self,
        store: Store,
        sets: DataSets,
        clock: Clock,
        guard: Lease,
        tell: Tell,
        open_prefix: str,
        check: Callable[[str, requests.Request], Awaitable[Proven]] | None = None,
    ) -> None:
        self._check = check
        self._store, self._sets, self._clock = store, sets, clock
        self._guard, self._tell, self._open_prefix = guard, tell, open_prefix

    async def run(self) -> None:
        """Until cancelled. Raises `LeaseLost`."""
        while True:
            with contextlib.suppress(errors.Unavailable):
                async for _ in self._store.watch(REQUESTS):
                    await self.turn()
            await asyncio.sleep(AGAIN_S)

    async def turn(self) -> None:
        """Answers the present requests to ended runs."""
        for entry in await self._store.list(REQUESTS):
            run = entry.key.removeprefix(REQUESTS).rpartition("/")[0]
            try:
                has_ended = await self._store.get(self._open_prefix + run) is None
            except errors.Corrupt:  # whether it has ended is unknown
                continue
            if has_ended:
                await self._answer(run, entry)

    async def _answer(self, run: str, entry: Entry) -> None:
        """Deletes the request and writes its answer in one transaction with its changes."""
        about: dict[str, Any] = {"run": run}
        try:
            request = requests.decode(entry.key, entry.value)
            permit, words = await self._vouch(run, request)
            if request.glass is not None:
                about["break_glass"] = request.glass.to_data()
            answer = {"done": words}
        except (errors.LeaseLost, errors.Unavailable):
            raise
        except Exception as error:
            permit, words, answer = Permit(), "", refused(foreseen(error, entry.key, self._trouble))
        key = ANSWER + entry.key.rpartition("/")[2]
        with contextlib.suppress(errors.Conflict):  # read again at the next change
            await self._store.transact(
                (Compare(entry.key, entry.revision), *permit.compares),
                (Delete(entry.key), Put(key, orjson.dumps(answer)), *permit.changes),
                self._guard,
            )
            if words:
                self._tell(Notice("run", self._clock.now_ms(), "", words, about))

    def _trouble(self, words: str, data: Mapping[str, Any]) -> None:
        self._tell(Notice("trouble", self._clock.now_ms(), "", words, data))

    async def _vouch(self, run: str, request: requests.Request) -> tuple[Permit, str]:
        """Raises RunError or NotAllowed if it is impossible."""
        if request.verb != "attest":
            raise errors.RunError("run-over", f"{run} has ended", f"see: evac run show {run}")
        proof = Proven() if self._check is None else await self._check(run, request)
        epoch = await self._in_doubt(run, plan_id(request.step))
        primary = _primary(epoch, request)
        after, permit = datasets.vouch(epoch, primary)
        words = f"{request.who} attests: the primary of {epoch.store} is at {primary} ({request.full_reason})"
        record = {
            "who": request.who,
            "reason": request.full_reason,
            "proof": proof.to_data(),
            "at_ms": self._clock.now_ms(),
            "run": run,
            "step": request.step,
            "primary": primary,
            "candidate": epoch.candidate,
            "epoch": after.number,
            "evidence": dict(request.evidence),
        }
        kept = Put(f"{VOUCHED}{epoch.store}/{epoch.number:06d}", orjson.dumps(record))
        return permit | Permit((), (kept,)), words

    async def _in_doubt(self, run: str, step: str) -> Epoch:
        epochs = await self._sets.read_all()
        for epoch in epochs.known.values():
            if epoch.run == run and not epoch.settled and step == step_of(epoch):
                return epoch
        for store, error in epochs.unreadable.items():
            if StepId.parse(step).target == store:
                raise error
        raise errors.RunError("run-over", f"{run} has ended, and {step or 'it'} has no unknown outcome")


def step_of(epoch: Epoch) -> str:
    """The plan id of the step whose outcome is in doubt."""
    return str(StepId(epoch.purpose, epoch.store))


def how_to_vouch(epoch: Epoch) -> str:
    """The command that settles the doubt."""
    sites = " or ".join(sorted({epoch.candidate, epoch.holder} - {""}))
    return (
        f"find out where the primary of {epoch.store} is ({sites}), then: "
        f"evac run attest {epoch.run} {step_of(epoch)} --seen primary=SITE --reason WHY"
    )


def _primary(epoch: Epoch, request: requests.Request) -> str:
    """Where the primary is, as the person states. Raises NotAllowed if that is incomplete."""
    if epoch.candidate in datasets.names_in(str(request.evidence.get("fenced", ""))):
        return epoch.holder
    named = str(request.evidence.get("primary", ""))
    if named not in (epoch.candidate, epoch.holder) or not named:
        raise errors.NotAllowed("primary-unsaid", how_to_vouch(epoch))
    return named
