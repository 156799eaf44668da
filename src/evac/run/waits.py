"""What only a person can do for a run now, as data: kind, step, since when, what ends it, facts. Pure.

`views.wait_words` turns it into words, which are never parsed back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final, Literal

from evac.model.records import dataclass
from evac.run.boots import outages, silent_servers
from evac.run.boots.rules import held_servers
from evac.run.decide import EVAC
from evac.run.table import RUN_TABLE
from evac.run.values import ATTESTED, ENDED
from evac.run.view import RunView
from evac.steps.registry import kind_of

WaitKind = Literal[
    "approval",
    "hold",
    "pause",
    "boot_server",
    "boot_server_check",
    "management_network",
    "gate",
    "by_hand",
    "by_hand_later",
    "outcome",
    "failure",
]
Verb = Literal["approve", "attest", "cancel", "pause", "release", "resume", "retry", "skip", "undo"]


@dataclass(frozen=True, slots=True)
class Approval:
    """The run begins, or continues with another plan, once enough people approve."""

    kind: ClassVar[WaitKind] = "approval"
    given: int
    """People whose approval covers what the plan needs."""
    needed: int
    to_type: tuple[str, ...]
    """Sites whose names must be typed with the approval, because more than one is evacuated."""


@dataclass(frozen=True, slots=True)
class Hold:
    kind: ClassVar[WaitKind] = "hold"
    who: str


@dataclass(frozen=True, slots=True)
class Paused:
    kind: ClassVar[WaitKind] = "pause"
    by: str
    """operator, step, gate or pace."""
    who: str
    reason: str
    until_ms: int
    """When the pause ends automatically; 0: never."""
    then: str
    """What the run does then: resume, cancel or stay."""


@dataclass(frozen=True, slots=True)
class DeadBootServer:
    """Boots from it do not come up, and its site has no other."""

    kind: ClassVar[WaitKind] = "boot_server"
    server: str
    boots: int
    """Boots that wait for it."""


@dataclass(frozen=True, slots=True)
class DoubtfulBootServer:
    """The last boots from it did not come up: it may be dead."""

    kind: ClassVar[WaitKind] = "boot_server_check"
    server: str
    boots: int
    retry_ms: int
    """When the first of these boots is retried."""


@dataclass(frozen=True, slots=True)
class SilentNetwork:
    """No management controller behind these feeds has answered yet."""

    kind: ClassVar[WaitKind] = "management_network"
    feeds: tuple[str, ...]
    servers: int


@dataclass(frozen=True, slots=True)
class Gate:
    """A step that could begin and needs an individual approval."""

    kind: ClassVar[WaitKind] = "gate"
    reason: str
    """Why, in the words of the plan or journal."""
    store: str = ""
    """The store that the step moves; empty if none."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """A step that a person does, and then attests."""

    kind: ClassVar[WaitKind] = "by_hand"
    step_kind: str
    target: str
    instructions: str
    """What to do and where; empty in runs of an older version."""


@dataclass(frozen=True, slots=True)
class ByHandLater:
    """A manual step whose dependency has been lost meanwhile."""

    kind: ClassVar[WaitKind] = "by_hand_later"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did cannot be determined automatically."""

    kind: ClassVar[WaitKind] = "outcome"
    step_kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Failure:
    kind: ClassVar[WaitKind] = "failure"
    code: str
    message: str


Facts = (
    Approval
    | Hold
    | Paused
    | DeadBootServer
    | DoubtfulBootServer
    | SilentNetwork
    | Gate
    | ByHand
    | ByHandLater
    | Outcome
    | Failure
)


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that only a person can do."""

    facts: Facts
    verbs: tuple[Verb, ...] = ()
    """Verbs that may end it, for the run or the step; the usual one first."""
    step: str = ""
    since_ms: int = 0
    """By the clock of the leader at that time; 0: unknown."""

    @property
    def kind(self) -> WaitKind:
        return self.facts.kind

    @property
    def key(self) -> str:
        """Stays the same as long as the wait lasts, however its facts change."""
        match self.facts:
            case DeadBootServer(server=server) | DoubtfulBootServer(server=server):
                return f"{self.kind}/{server}"
            case SilentNetwork(feeds=feeds):
                return f"{self.kind}/{'+'.join(feeds)}"
        return f"{self.kind}/{self.step}" if self.step else self.kind


def waiting(view: RunView) -> list[Wait]:
    """What waits for a person. For an ended run: what it left in doubt."""
    found: list[Wait] = []
    if view.phase == "awaiting_approval":
        facts = Approval(view.approvals.counted, view.spec.approvals, view.approvals.untyped)
        found.append(Wait(facts, ("approve",), since_ms=view.phase_ms))
    if view.held:
        found.append(Wait(Hold(view.held), ("release",), since_ms=view.held_ms))
    paused = view.phase == "paused" and view.pause is not None
    if paused and not _ends_with_its_gates(view) and not _is_stuck(view):
        assert view.pause is not None
        by, who, reason, until_ms, then, _ = view.pause
        facts_of_pause = Paused(by, who, reason, 0 if then == "stay" else until_ms, then)
        found.append(Wait(facts_of_pause, ("resume",), since_ms=view.phase_ms))
    for server, boots in held_servers(view).items():
        found.append(Wait(DeadBootServer(server, boots), since_ms=view.boots.unreplaced_ms.get(server, 0)))
    for server, (boots, at_ms) in outages.tried_again(view).items():
        found.append(Wait(DoubtfulBootServer(server, boots, at_ms)))
    for feeds, servers in silent_servers.waiting(view).items():
        found.append(Wait(SilentNetwork(feeds, servers)))
    if view.phase not in ENDED:
        found += _gates_and_hands(view)
    for i in sorted(view.doubtful):
        facts_of_doubt = Outcome(view.steps[i].kind, view.whys.get(i, ""))
        found.append(_of_step(view, i, facts_of_doubt))
    if view.phase not in ENDED:
        found += _failures(view)
    return found


_EVENTS: Final[Mapping[str, str]] = {
    "approve": "approved",
    "pause": "paused",
    "resume": "resumed",
    "retry": "step_retried",
    "skip": "step_skipped",
    "cancel": "cancelled",
    "undo": "rollback_started",
    "attest": "step_attested",
    "limit": "limit_changed",
}
_STEP_EVENTS: Final[Mapping[str, str]] = {**_EVENTS, "approve": "gate_opened", "undo": "undo_asked"}


def event_kind(verb: str, step: str = "") -> str:
    """The event kind that a request becomes, for the run or a step."""
    return (_STEP_EVENTS if step else _EVENTS)[verb]


def step_verbs(view: RunView, i: int) -> tuple[Verb, ...]:
    """Verbs allowed for step i now; the leader decides."""
    if view.phase in ENDED:
        return ("attest",) if view.phases[i] == "unknown" else ()
    step = view.steps[i].id
    return tuple(v for v in _of_phase(view, i) if (view.phase, event_kind(v, step)) in RUN_TABLE)


def _of_phase(view: RunView, i: int) -> tuple[Verb, ...]:
    phase = view.phases[i]
    if phase == "failed":
        return ("attest", "retry", "skip") if _may_be_attested(view, i) else ("retry", "skip")
    if phase == "unknown":
        return ("attest", "retry", "skip") if view.may_retry(i) else ("attest", "skip")
    if i in view.manual_running:
        attest: tuple[Verb, ...] = ("attest",)
        if kind_of(view.steps[i].kind).fences and not _may_be_attested(view, i):
            attest = ()
        return (*attest, "skip") if view.may_skip(i) else attest
    if phase == "ready" and view.gate_of(i):
        return ("approve", "skip")
    step = view.steps[i]
    undone = phase == "succeeded" and step.safe_undo and not step.data_set and not view.built_on(i)
    return ("undo",) if undone and not kind_of(step.kind).makes_primary else ()


def run_verbs(view: RunView) -> tuple[Verb, ...]:
    """Verbs allowed for the run now."""
    if view.phase in ENDED:
        return ()
    if view.phase == "awaiting_approval":
        return ("approve", "undo", "cancel")
    if view.phase == "paused":
        return ("undo", "cancel") if _is_stuck(view) else ("resume", "undo", "cancel")
    asked: tuple[Verb, ...] = ("pause", "undo", "cancel")
    return tuple(verb for verb in asked if (view.phase, event_kind(verb)) in RUN_TABLE)


def _may_be_attested(view: RunView, i: int) -> bool:
    """Whether policy accepts a person's attestation for the failed fence."""
    step = view.steps[i]
    stores = view.specs[view.plans[-1]].labels.get(ATTESTED, "").split()
    return kind_of(step.kind).fences and (step.data_set or step.target) in stores


def _is_stuck(view: RunView) -> bool:
    """Whether evac paused because of steps that people must check: resuming would pause again at once, and it
    resumes by itself as soon as there is something to do.
    """
    pause = view.pause
    if view.phase != "paused" or pause is None or pause.who != EVAC or pause.by != "step":
        return False
    return bool(view.counts.get("failed", 0) or view.doubtful) and not view.boots.refusing


def _of_step(view: RunView, i: int, facts: Facts) -> Wait:
    return Wait(facts, step_verbs(view, i), view.steps[i].id, view.since[i])


def _ends_with_its_gates(view: RunView) -> bool:
    """Whether evac paused only for missing approvals: it continues by itself once one is given."""
    pause = view.pause
    by_evac = pause is not None and pause.by == "gate" and pause.who == EVAC and not view.boots.refusing
    return by_evac and any(p == "ready" and view.gate_of(i) for i, p in enumerate(view.phases))


def _gates_and_hands(view: RunView) -> Iterator[Wait]:
    """Steps that need an individual approval, and manual ones: fences first, because the old primary writes
    until then, the others in plan order.
    """
    urgent = sorted(
        range(len(view.steps)), key=lambda i: (not kind_of(view.steps[i].kind).fences, view.rank[i])
    )
    for i in urgent:
        if view.phases[i] == "ready" and (reason := view.gate_of(i)):
            yield _of_step(view, i, Gate(reason, view.steps[i].data_set))
    for i in (i for i in urgent if i in view.manual_running):
        step = view.steps[i]
        lost = view.waits[i] > 0
        yield _of_step(view, i, ByHandLater() if lost else ByHand(step.kind, step.target, step.words))


def _failures(view: RunView) -> Iterator[Wait]:
    """Failed steps that a person must retry or leave out."""
    for i, phase in enumerate(view.phases):
        if phase == "failed":
            if i in view.boots.refused or (i in view.boots.given_up and view.phase == "running"):
                continue  # retried once the password is fixed; or the run continues without this server
            yield _of_step(view, i, Failure(*view.failures.get(i, ("", ""))))
