"""Operations on runs: propose one, view it, send requests, hold everything, verify it.

Every function takes an open store and plain values. Nothing here runs a step: the controller does. Also:
which servers of a run did not come up, with their locations.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from evac.engine.clock import SystemClock
from evac.engine.lead import access_chapters
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.signed_heads import signed_heads
from evac.engine.lead.watch_journal import STREAM as WATCH
from evac.engine.lead.watch_journal import Notice
from evac.engine.lead.watch_journal import decode as decode_notice
from evac.engine.plans.library import get_plan, put_plan
from evac.engine.runs import requests
from evac.engine.runs.binding import get_bound
from evac.engine.runs.effects import mark_digest
from evac.engine.runs.open_runs import OPEN, made_in
from evac.engine.runs.proposals import ANSWER, PROPOSAL, proposing
from evac.engine.runs.proving import OF_HOLD, OF_MARK, OF_PROPOSAL, Act, sign_act
from evac.engine.runs.reading import decode_all, run_of_incident
from evac.engine.runs.releases import RELEASE, hold_digest, proof_needed, released
from evac.engine.runs.signatures import read_key
from evac.engine.stores.guards import HOLD_KEY
from evac.engine.stores.sightings import again, read_sightings
from evac.estate.codecs import plan as plan_codec
from evac.model.access import Proven
from evac.model.errors import (
    Corrupt,
    EvacError,
    InvalidInput,
    NotAllowed,
    OutcomeUnknown,
    RunError,
    Unavailable,
    error_of,
)
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.run.data_loss import Loss, fenced_ms, known_losses
from evac.run.state import plans_of, replay
from evac.run.table import RUN_TABLE
from evac.run.values import CORRUPT, ENDED, Event, RunPhase, RunSpec
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.store.anchors import Anchor, verify_chain
from evac.store.journal import read, readable
from evac.store.port import Compare, Delete, Put, Store, entries
from evac.views.decisions import Decision, decision_of
from evac.views.documents import LossRow, RunShown
from evac.views.quarantine import Quarantine, quarantine_of
from evac.views.status_document import HoldLine, RunLine, hold_line
from evac.views.words import moment

INCIDENT: Final = "incident/"
ANSWER_S: Final = 30.0
RUNS_MOST: Final = 10_000
REFUSED: Final = "the leader refused it"


def who_am_i() -> str:
    """The name for the journal: the person behind sudo, else the user."""
    for name in ("EVAC_WHO", "SUDO_USER", "USER", "LOGNAME"):
        if os.environ.get(name):
            return os.environ[name]
    return f"uid-{os.getuid()}"


def new_id(now_ms: int) -> str:
    """Unique ids that sort by time."""
    return f"{now_ms:013d}-{os.urandom(6).hex()}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """leaving: sites that the plan leaves; mark: their state in the register meanwhile; ends: afterwards.
    who: requests it. abandoned: sites left as lost although they respond.
    """

    incident: str
    plan: bytes
    reason: str
    leaving: tuple[str, ...] = ()
    mark: str = "lost"
    ends: Mapping[str, str] | None = None
    typed: tuple[str, ...] = ()
    who: str = ""
    abandoned: tuple[str, ...] = ()

    def unnamed(self) -> list[str]:
        """Sites that the requester still has to name. A plan that leaves no site needs no name; naming a site
        that it is not about means that another plan was intended.
        """
        wanted = self.leaving or (tuple(self.ends or ()) if self.typed else ())
        return [site for site in wanted if site not in self.typed]


async def propose(
    store: Store, proposal: Proposal, now_ms: int, wait_s: float = ANSWER_S, key: Path | None = None
) -> str:
    """Ask the leader to make a run of a plan, and wait for its id. key: to sign with.

    Raises NotAllowed with the leader's message if a guard refuses, UnsafePlan if the checker does, StalePlan
    if the estate changed meanwhile, Unavailable if no one leads, OutcomeUnknown if the store can no longer
    say what happened.
    """
    digest = await put_plan(store, proposal.plan)
    number = new_id(now_ms)
    asked = None
    if key is not None:
        asked = proposing(number, proposal_told(digest, proposal), now_ms)
        asked = replace(asked, signature=sign_act(Act(OF_PROPOSAL, asked, at_ms=now_ms), read_key(key)))
    name, value = proposal_entry(number, digest, proposal, asked)
    try:
        await store.transact((Compare(name, 0),), (Put(name, value),))
        answer = await answer_to(store, number, wait_s)
    except Unavailable as error:
        raise OutcomeUnknown(
            "proposal-unsure",
            f"{error.message}; the run may have been created, or may still be created",
            "check first: evac run list",
        ) from error
    if answer is None:
        leader = await leader_of(store)
        why = f"{leader} leads but did not answer" if leader else "no controller is leading"
        no = Unavailable(f"{why}, so the plan was not accepted")
        then = f"see the log of {leader}, then" if leader else "once a controller leads (evac serve),"
        no.hint = f"nothing was changed; {then} apply the plan again"
        raise no
    if "run" in answer:
        return str(answer["run"])
    raise refusal(Refusal.of(answer))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal by the leader. kind: from `kind_of`; empty from an older leader that does not send it."""

    code: str
    why: str
    kind: str = ""
    hint: str = ""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Refusal:
        return cls(
            str(answer.get("code", "refused")),
            str(answer.get("refused", REFUSED)),
            str(answer.get("kind", "")),
            str(answer.get("hint", "")),
        )


def refusal(no: Refusal) -> EvacError:
    """The leader's error. Without a kind: from the checker, or else from a guard."""
    from evac.app.accepting import WRONG, unsafe  # imported late: read-only commands need no checker

    if no.kind:
        return error_of(no.kind, 0, no.code, no.why, no.hint)
    return unsafe(no.why) if no.code == WRONG else NotAllowed(no.code, no.why)


def proposal_told(digest: str, proposal: Proposal) -> dict[str, Any]:
    """A proposal's description of a plan that is in the store."""
    return {
        "incident": proposal.incident,
        "plan": digest,
        "reason": proposal.reason,
        "mode": "hold",
        "leaving": list(proposal.leaving),
        "mark": proposal.mark,
        "ends": dict(proposal.ends or {}),
        "typed": list(proposal.typed),
        "who": proposal.who,
        "abandoned": list(proposal.abandoned),
    }


def proposal_entry(
    number: str, digest: str, proposal: Proposal, asked: requests.Request | None = None
) -> tuple[str, bytes]:
    """Key and value of a proposal. asked: a request from `proposing`, with its proof of identity."""
    told = proposal_told(digest, proposal)
    if asked is not None:
        told["asked"] = orjson.loads(requests.encode(asked))
    return PROPOSAL + number, orjson.dumps(told)


async def answer_to(store: Store, number: str, wait_s: float) -> Mapping[str, Any] | None:
    """The leader's answer to a proposal: its run, or a code and why it is refused. None if no leader accepted
    it in time: it is withdrawn, and no run is made of it. wait_s 0: only look, and leave it there.

    Raises Unavailable if the store does not say whether it was withdrawn.
    """
    deadline = time.monotonic() + wait_s
    while (answer := await store.get(ANSWER + number)) is None and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    if answer is None and wait_s > 0:
        await store.transact((), (Delete(PROPOSAL + number),))
        answer = await store.get(ANSWER + number)  # the leader may have answered first
    return None if answer is None else dict(orjson.loads(answer.value))


async def resolve(store: Store, name: str) -> str:
    """The run with that name, or of the incident with that name. Raises RunError if there is neither."""
    from evac.app.access_log import is_of_no_run

    if not is_of_no_run(name) and await store.list(f"journal/{name}/", limit=1):
        return name
    entry = await store.get(INCIDENT + name)
    if entry is None:
        raise RunError("run-unknown", f"no such run or incident: {name[:80]}", "evac run list")
    run = run_of_incident(entry.value)
    if not run:
        raise Corrupt(f"{INCIDENT}{name} in the store does not name a run")
    return run


async def ask(store: Store, run: str, request: requests.Request, named: str = "") -> None:
    """Write an operator's request for the leader. named: the operator's name for the run, for the hint.
    Raises RunError if the run has ended: then people can only still attest steps with unknown outcomes.
    """
    opened = await store.get(OPEN + run)
    if opened is None and request.verb != "attest":
        raise RunError("run-over", f"{run} has ended", f"evac run show {named or run}")
    if opened is not None:
        request = replace(request, made=made_in(opened.value))
    key = requests.key_of(run, request.id)
    await store.transact((Compare(key, 0),), (Put(key, requests.encode(request)),))


async def settled(store: Store, run: str, request: str, wait_s: float = ANSWER_S) -> bool:
    """Wait until the leader has accepted a request. False: none did in time, and it is still pending."""
    return not await unsettled(store, run, (request,), wait_s)


async def unsettled(store: Store, run: str, asked: Sequence[str], wait_s: float = ANSWER_S) -> frozenset[str]:
    """Wait until the leader has accepted the requests; return those still pending when the time limit passed
    after the last accepted one.
    """
    left, deadline = list(asked), time.monotonic() + wait_s
    while left and time.monotonic() < deadline:
        if await store.get(requests.key_of(run, left[0])) is None:
            left, deadline = left[1:], time.monotonic() + wait_s
        else:
            await asyncio.sleep(0.05)
    return frozenset(left)


async def answered(store: Store, request: str) -> tuple[str, str]:
    """Why a request to an ended run was refused, and what to do; empty if it was not."""
    entry = await store.get(ANSWER + request)
    told = {} if entry is None else orjson.loads(entry.value)
    return str(told.get("refused", "")), str(told.get("hint", ""))


async def events_of(store: Store, run: str) -> list[Event]:
    """Every event of a run, with its chain verified. Raises RunError if there is no such run."""
    events: list[Event] = []
    async for segment in read(store, await resolve(store, run)):
        events += decode_all(segment.records)
    return events


async def view_of(store: Store, run: str) -> RunView:
    """The run as replayed from its journal."""
    run = await resolve(store, run)
    events = await events_of(store, run)
    first, others = await specs_of(store, run, events)
    return replay(first, events, others)


async def specs_of(store: Store, run: str, events: Sequence[Event]) -> tuple[RunSpec, list[RunSpec]]:
    """The actions of a run by its first plan, and by those that replaced it. Raises Corrupt for an unreadable
    entry.
    """
    first = await spec_of(store, run, str(events[0].data["incident"]), events[0].data)
    opened = await store.get(OPEN + run)
    if opened is not None:
        try:
            approvals = int(orjson.loads(opened.value).get("approvals", first.approvals))
        except (AttributeError, TypeError, ValueError) as error:
            raise Corrupt(f"{opened.key} in the store is not a run") from error
        first = replace(first, approvals=approvals)
    replaced = [event.data for event in events if event.kind == "plan_replaced"]
    return first, [await spec_of(store, run, first.incident, said) for said in replaced]


async def spec_of(store: Store, run: str, incident: str, said: Mapping[str, Any]) -> RunSpec:
    """The actions of a run, as bound when it was made. said: the plan in the journal. Raises Corrupt if they
    were changed since.
    """
    digest = str(said["plan"])
    try:
        return (await get_bound(store, run, digest, str(said.get("bound", "")))).spec
    except Corrupt:
        from evac.engine.stores.stalled_commits import bound_of, is_protection  # only leaders need it

        data = await get_plan(store, digest)
        if not is_protection(data):
            raise
        return bound_of(data, RunPolicy(), run=run, incident=incident, digest=digest).spec


async def losses_of(store: Store | None, view: RunView, now_ms: int) -> tuple[Loss, ...]:
    """The most that each promotion of a run can lose: from current observations until it starts, and from
    then on as it was when its fence was complete. Without an observation since the run was made, its leader's
    knowledge counts, because clocks may have jumped. The figure never decreases until a fence fixes it. An
    ended run lost nothing of a store that it never started to promote. store None: it does not answer, so
    what its leader knew counts.
    """
    known = known_losses(view.specs[view.plans[-1]])
    sightings = await read_sightings(store) if known and store is not None else {}
    begun = {s.target for i, s in enumerate(view.steps) if kind_of(s.kind).makes_primary and view.attempts[i]}
    found: list[Loss] = []
    for name, loss in sorted(row for row in known.items() if row[0] in begun or view.phase not in ENDED):
        until_ms = view.last_ms if view.phase in ENDED else max(now_ms, loss.until_ms)
        sighting = None if name in begun else sightings.get(name)
        if sighting is not None and sighting.name == loss.sighting:
            sighting = None
        found.append(again(loss, sighting, fenced_ms(view, name) or until_ms))
    return tuple(found)


async def loss_rows(store: Store | None, view: RunView, now_ms: int) -> tuple[LossRow, ...]:
    """The same for documents: the figure that every page, paper and command shows."""
    return tuple(
        LossRow(
            one.store,
            one.candidate,
            one.most_ms,
            one.basis,
            one.words,
            one.figure,
            moment(one.until_ms, "seconds"),
            bool(fenced_ms(view, one.store)) or view.phase in ENDED,
        )
        for one in await losses_of(store, view, now_ms)
    )


async def decision(store: Store, name: str, step: str, now_ms: int) -> Decision:
    """The decision needed on a step or a run, and the effect of each option. Raises RunError."""
    view = await view_of(store, name)
    plan = None
    with contextlib.suppress(EvacError):
        plan = plan_codec.decode(await get_plan(store, view.plans[-1]))
    shown = RunShown(view, await leader_of(store), now_ms, await loss_rows(store, view, now_ms))
    return decision_of(shown, step, plan)


async def leader_of(store: Store) -> str:
    """The leader; empty if there is none or it is unknown."""
    try:
        lease = await store.holder(LEADER)
    except Unavailable:
        return ""
    return "" if lease is None else lease.owner


def _phase_in(events: Sequence[Event]) -> str:
    """The phase of an open run, without replaying its steps."""
    phase: RunPhase = "pending"
    rolls = False
    for event in events:
        rolls = rolls or event.kind == "rollback_started"
        trigger = "resumed:rolling_back" if rolls and event.kind == "resumed" else event.kind
        phase = RUN_TABLE.get((phase, trigger), phase)
    return phase


async def list_runs(store: Store) -> list[RunLine]:
    """All runs, oldest first, with current plan and scenario. A run with an unreadable journal has the state
    `CORRUPT` and no other data, and hides no other run.
    """
    rows: list[RunLine] = []
    async for entry in entries(store, INCIDENT, 500):
        run, incident = run_of_incident(entry.value), entry.key.removeprefix(INCIDENT)
        try:
            rows.append(await _line(store, run, incident))
        except (Corrupt, RunError):
            rows.append(RunLine(run or incident, incident, CORRUPT, "", "", 0))
        if len(rows) >= RUNS_MOST:
            break
    return sorted(rows, key=lambda row: (row.created_ms, row.run))


async def _line(store: Store, run: str, incident: str) -> RunLine:
    events = await events_of(store, run)
    ended = next((e.data["phase"] for e in reversed(events) if e.kind == "run_ended"), "")
    under_way = not ended and await store.get(OPEN + run) is not None
    plan, scenario = await _in_force(store, run, events)
    state = ended or (_phase_in(events) if under_way else "unfinished")
    return RunLine(run, incident, state, scenario, plan, events[0].at_ms)


async def _in_force(store: Store, run: str, events: Sequence[Event]) -> tuple[str, str]:
    """The plan that a run currently follows, which may have replaced the first, and its scenario in words."""
    first = events[0].data
    scenario = str(first.get("scenario", ""))
    plans = plans_of(events)
    if not plans:
        return str(first.get("plan", "")), scenario
    with contextlib.suppress(Corrupt):
        said = next(event.data for event in reversed(events) if event.kind == "plan_replaced")
        spec = await spec_of(store, run, str(first.get("incident", "")), said)
        scenario = spec.labels.get("scenario", "")
    return plans[-1], scenario


async def follow(store: Store, run: str, pause_s: float = 0.3) -> AsyncIterator[RunView]:
    """The run after each change, until it has ended."""
    seen = -1
    while True:
        view = await view_of(store, run)
        if view.events != seen:
            seen = view.events
            yield view
        if view.phase in ENDED:
            return
        await asyncio.sleep(pause_s)


async def hold(store: Store, who: str, reason: str, now_ms: int) -> None:
    """Stop everything before its next effect."""
    value = orjson.dumps({"who": who, "reason": reason, "at_ms": now_ms})
    await store.transact((), (Put(HOLD_KEY, value),))


async def release(
    store: Store, who: str, reason: str, now_ms: int, key: Path | None = None, wait_s: float = ANSWER_S
) -> bool:
    """End the hold; False if there was none. key: to sign with; required if the leader accepts no typed
    names, in which case the leader ends it. Raises NotAllowed, Unavailable if no leader responded.
    """
    entry = await store.get(HOLD_KEY)
    if entry is None:
        return False
    if key is None:
        if await proof_needed(store):
            raise NotAllowed(
                "unproven",
                f"{who[:80]} is a typed name; releasing a hold needs a verified identity",
                "sign with --key FILE, or go through the war room: --server URL",
            )
        changes = (Delete(HOLD_KEY), released(who, reason, now_ms, Proven()))
        await store.transact((Compare(HOLD_KEY, entry.revision),), changes)
        return True
    request = requests.Request(new_id(now_ms), "resume", who, reason, at_ms=now_ms)
    await _ask_leader(store, OF_HOLD, request, hold_digest(entry.value), key, wait_s)
    return True


async def clear_mark(
    store: Store, domain: str, who: str, reason: str, now_ms: int, key: Path, wait_s: float = ANSWER_S
) -> None:
    """Ask the leader to clear the lost or evacuated mark of a site, or of a domain below one. key: to sign
    with. Raises NotAllowed, Unavailable if no leader responded.
    """
    request = requests.Request(new_id(now_ms), "resume", who, reason, step=domain, at_ms=now_ms)
    await _ask_leader(store, OF_MARK, request, await mark_digest(store, domain, now_ms), key, wait_s)


async def _ask_leader(
    store: Store, about: str, request: requests.Request, bound: str, key: Path, wait_s: float
) -> None:
    """Sign a request that belongs to no run, and wait for the answer. Raises NotAllowed, Unavailable."""
    act = Act(about, request, bound=bound, at_ms=request.at_ms)
    request = replace(request, signature=sign_act(act, read_key(key)))
    await store.transact((), (Put(RELEASE + request.id, requests.encode(request)),))
    deadline = time.monotonic() + wait_s
    while (answer := await store.get(ANSWER + request.id)) is None:
        if time.monotonic() >= deadline:
            raise Unavailable("no controller is leading; the request will be answered once one does")
        await asyncio.sleep(0.1)
    if (row := orjson.loads(answer.value)).get("code"):
        raise refusal(Refusal.of(row))


async def held(store: Store) -> HoldLine | None:
    """The hold with who placed it and why; None if there is none."""
    entry = await store.get(HOLD_KEY)
    return None if entry is None else hold_line(entry.value)


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of verifying a journal. No `problems`: nothing is missing, changed or cut off."""

    stream: str
    segments: int
    records: int
    anchors: int
    problems: tuple[str, ...]
    signed: tuple[Mapping[str, Any], ...] = ()
    """Heads signed by controllers, from the store; the verifier has the keys and checks them."""
    chapters: tuple[str, ...] = ()
    """Its journals: for access, those that exist, oldest first, and any that may exist by now. Agents keep
    heads of each.
    """


async def verify(store: Store, run: str, anchors: list[Anchor]) -> Proof:
    """Verify the chain of a run's journal against the heads that other sites kept."""
    if run == access_chapters.STREAM:
        return await _verify_access(store, anchors)
    segments = records = 0
    with contextlib.suppress(Corrupt):
        async for segment in read(store, run):
            segments, records = segments + 1, records + len(segment.records)
    problems = await verify_chain(store, run, anchors)
    return Proof(
        run,
        segments,
        records,
        len(anchors),
        tuple(str(problem) for problem in problems),
        await signed_heads(store, run),
    )


async def _verify_access(store: Store, anchors: list[Anchor]) -> Proof:
    heads, problems = await access_chapters.verify_chapters(store, anchors)
    streams = [one.stream for one in heads]
    later = access_chapters.streams_since(streams[-1] if streams else "", SystemClock().now_ms())
    return Proof(
        access_chapters.STREAM,
        sum(one.segment for one in heads),
        sum(one.records for one in heads),
        len(anchors),
        tuple(problems),
        tuple([row for stream in streams for row in await signed_heads(store, stream)]),
        (*streams, *later),
    )


async def notices(store: Store) -> dict[int, Notice]:
    """The watch journal by number: verdicts, leaders, losses. Unreadable entries are omitted."""
    found: dict[int, Notice] = {}
    async for segment in readable(store, WATCH):
        for number, record in enumerate(segment.records, segment.first):
            with contextlib.suppress(Corrupt):
                found[number] = decode_notice(record)
    return found


def proposal_of(data: bytes, incident: str, reason: str, typed: tuple[str, ...], who: str = "") -> Proposal:
    """The effect of a plan file on the register of sites. who: default is the user of this process. Raises
    InvalidInput if it is not a plan.
    """
    who = who or who_am_i()
    try:
        plan = plan_codec.decode(data)
    except EvacError as error:
        raise InvalidInput(error.code, error.message, error.hint) from error
    sites = tuple(d for d in plan.scenario.domains if "/" not in d)
    left = {"lose": ("lost", "lost"), "evacuate": ("evacuating", "evacuated")}
    if plan.scenario.kind in left:
        mark, ends = left[plan.scenario.kind]
        return Proposal(incident, data, reason, sites, mark, dict.fromkeys(sites, ends), typed, who)
    return Proposal(incident, data, reason, (), "active", dict.fromkeys(sites, "active"), typed, who)


async def quarantine(store: Store, run: str) -> Quarantine:
    """From the current journal, with the locations that each boot was bound with."""
    view = await view_of(store, run)
    bound = {
        plan: (await get_bound(store, view.spec.run, plan)).actions for plan in dict.fromkeys(view.plans)
    }

    def place_of(step: str) -> Mapping[str, Any]:
        plan, there = view.origin_of(step)
        actions = bound[plan].get(there, ())
        return actions[0].parameters if actions else {}

    return quarantine_of(view, place_of)
