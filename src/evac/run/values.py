"""Values of a run: events, states, and what a run is made of. Pure.

An event is a small tuple, because a journal of a million of them is replayed in seconds. `EVENT_DATA` lists
what each kind of event has in `data`; `run.table` says which state each leads to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeVar

from evac.model.records import dataclass
from evac.model.run_policy import Envelope, Pace, Patience
from evac.model.step_id import StepId

RunPhase = Literal[
    "pending",
    "awaiting_approval",
    "running",
    "paused",
    "cancelling",
    "rolling_back",
    "monitoring",
    "succeeded",
    "succeeded_with_exceptions",
    "failed",
    "cancelled",
    "timed_out",
]
"""cancelling: nothing new starts, running steps finish."""
StepPhase = Literal[
    "pending", "ready", "running", "succeeded", "failed", "skipped", "unknown", "undoing", "undone"
]

ENDED: Final = frozenset({"succeeded", "succeeded_with_exceptions", "failed", "cancelled", "timed_out"})
CORRUPT: Final = "corrupt"
"""Phase shown for a run whose journal cannot be read; `evac run verify` says where."""
SETTLED: Final = frozenset({"succeeded", "skipped", "undone"})
"""Step phases after which steps that wait for it may begin (undone only matters during rollback)."""

EVENT_DATA: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "run_created": (
            "run",
            "incident",
            "plan",
            "scenario",
            "envelope",
            "mode",
            "reason",
            "owner",
            "token",
            "names",
            "who",
            "approvals",
            "policy",
            "bound",
            "made",
            "proof",
        ),
        "approval_needed": ("outside",),
        "approved": ("who", "reason", "ticket", "envelope", "signature", "typed", "proof", "dropped"),
        "run_started": ("token",),
        "leader_changed": ("owner", "token"),
        "step_started": ("token", "epoch", "deadline_ms"),
        "step_succeeded": ("evidence",),
        "step_failed": ("code", "message", "again_ms"),
        "step_unknown": ("message",),
        "step_observed": ("outcome", "evidence"),
        "step_waits": ("why", "again_ms", "asks"),
        "step_skipped": ("who", "reason", "proof"),
        "step_attested": ("who", "reason", "evidence", "proof"),
        "step_retried": ("who", "reason", "turn", "cycle", "proof"),
        "step_stuck": ("running_ms", "predicted_ms", "critical"),
        "gate_opened": ("who", "reason", "proof"),
        "undo_asked": ("who", "reason", "proof"),
        "undo_started": ("token", "who", "reason"),
        "undo_done": ("evidence",),
        "undo_failed": ("code", "message", "again_ms"),
        "paused": ("by", "who", "reason", "until_ms", "then", "proof"),
        "resumed": ("who", "reason", "proof"),
        "held": ("who", "reason"),
        "released": ("who", "reason", "proof"),
        "cancelled": ("who", "reason", "proof"),
        "rollback_started": ("who", "reason", "proof"),
        "plan_replaced": ("plan", "why", "lost", "approvals", "names", "bound", "made"),
        "made_ungraceful": ("why",),
        "pace_changed": ("share", "wait_ms", "why"),
        "limit_changed": ("limit", "capacity", "who", "reason", "proof"),
        "feeds_seen": ("feeds",),
        "switched_on": ("steps",),
        "feed_tripped": ("feed", "why", "evidence"),
        "boot_server_lost": ("server", "other", "why", "holds", "stood_in"),
        "request_refused": ("who", "verb", "why", "request", "hint", "break_glass"),
        "drift_seen": ("evidence", "undone"),
        "monitoring_started": (),
        "run_ended": ("phase", "why", "left"),
    }
)
"""Kind of event -> keys of `data`. Steps are named by id in `step`; `attempt` counts from 1.

break_glass, of whatever a person asked: the use of a credential that was signed offline, if it took one.
request, of the same: its id, which is answered once. made: of this run and this plan of it, and of no other.
proof: how that person was proven (`Proven`); journals of older leaders do not say it.
again_ms: how long until the next try; negative or missing: there is none. `approved` by fewer persons than
the run needs, or of an envelope that does not cover what its plan needs, is kept and counts when it does.
dropped: persons who approved before and may not any more, so that their approval counts no longer.
names: sites that a person must type before it goes on, because more than one is left; typed: what one typed.
approvals of a new plan: persons that it needs; as before where it does not say. capacity: what the run may
hold of the limit from now on. left: rows of a `Left`, of a run that ends
with what its plan leaves down. off of a failed step: it was seen off, so that it draws nothing. turn of a
boot that evac retries for want of an image: which one it is, from 1, the last of them where it has only one;
cycle: found on, it is switched off first. stood_in: boot servers that the one that died had taken over from.
"""


class Event(NamedTuple):
    """One fact of a run."""

    kind: str
    at_ms: int
    """Wall clock of the writer, for people; order is the order in the journal."""
    step: str = ""
    attempt: int = 0
    data: Mapping[str, Any] = MappingProxyType({})


ATTESTED: Final = "attested"
"""The run label that names stores whose fence a person may attest."""
KEPT: Final = -1
"""hold_ms of a use that outlasts its step: a server that is on draws its watts until it is off."""


@dataclass(frozen=True, slots=True)
class RunLimit:
    """slots: at most `capacity` units held. rate: at most `capacity` units begun in any `window_ms`."""

    id: str
    kind: Literal["slots", "rate"]
    capacity: int
    window_ms: int = 0
    whole: int = 0
    """The estate's value, 0 if that is the capacity."""
    beside: int = 0
    """The part held by others."""


@dataclass(frozen=True, slots=True)
class RunStep:
    """A step in the form that a run needs."""

    id: StepId
    kind: str
    target: str
    start_ms: int
    duration_ms: int
    after: tuple[str, ...] = ()
    """Ids as text: a fleet's plan has a million of them, and their fields are not read."""
    uses: tuple[tuple[str, int, int], ...] = ()
    """(limit, units, hold_ms). hold 0: for the whole step; KEPT: from its start until it is undone, fails
    with nothing drawn, or is seen off; for a rate limit: the window.
    """
    deadline_ms: int = 0
    gate: str = ""
    """What a person must approve before it starts."""
    manual: bool = False
    safe_undo: bool = False
    """evac may undo it automatically (never for a store)."""
    data_set: str = ""
    """The store whose lease and epoch it needs, for fence and promote."""
    site: str = ""
    paced: bool = False
    act: str = ""
    """Distinguishes it from a step with the same id in another plan; for a fence what its proof covers: `old`
    site, or `old>candidate` if it holds for one candidate only.
    """
    rack: str = ""
    feeds: tuple[str, ...] = ()
    boot_server: str = ""
    """Of a boot."""
    lag_ms: int = 0
    """Earliest start after the end of the steps it waits for."""
    words: str = ""
    """Instructions for a manual step."""
    cold: bool = False
    """For a boot: its server had no power before the run and stays off when power returns, so a server found
    on was switched on since.
    """
    critical: bool = False
    """Whether it is on the chain of steps that decides when the last service is restored: only there a late
    step is urgent.
    """
    optional: bool = False
    """Whether evac skips it by itself once it failed for good or nobody can tell what it did."""

    def __post_init__(self) -> None:
        if type(self.id) is not StepId:
            object.__setattr__(self, "id", StepId.parse(self.id))


class Left(NamedTuple):
    """Something that a plan does not restore, so that its run ends with an exception."""

    name: str
    state: Literal["down", "shed", "unknown", "unprotected", "beyond_rpo"]
    """unprotected: a store whose copies do not confirm what its `rpo` needs. beyond_rpo: one that may have
    lost more than that.
    """
    people: int = 0
    """Its users."""


LEFT_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "down": "down",
        "unknown": "cannot be judged",
        "beyond_rpo": "may have lost more data than its RPO allows",
        "unprotected": "unprotected",
        "shed": "shed",
    }
)
LEFT_SHOWN: Final = 5


def bound_in(data: Mapping[str, Any]) -> str:
    """What signatures of a run cover, from the data of an event that sets its plan: the actions of its steps,
    and that it is this run and no other of the same name. Empty for older journals.
    """
    bound, made = str(data.get("bound", "")), str(data.get("made", ""))
    return f"sha256:{hashlib.sha256(f'{bound} {made}'.encode()).hexdigest()}" if bound and made else bound


def made_ms(made: str) -> int:
    """When a run, or its plan, was made; 0 if unknown."""
    digits = made.partition(".")[2]
    return int(digits) if digits.isdecimal() else 0


def left_of(rows: Iterable[Sequence[Any]]) -> tuple[Left, ...]:
    """From the rows of a journal event."""
    return tuple(Left(str(row[0]), str(row[1]), int(row[2])) for row in rows)  # type: ignore[arg-type]


def left_words(left: Sequence[Left]) -> str:
    """`down: mail, maps; shed: ads`; empty if nothing is left."""
    parts = []
    for state, words in LEFT_WORDS.items():
        names = [one.name for one in left if one.state == state]
        more = f" and {len(names) - LEFT_SHOWN} more" if len(names) > LEFT_SHOWN else ""
        if names:
            parts.append(f"{words}: {', '.join(names[:LEFT_SHOWN])}{more}")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run executes: made once from plan, limits and policy; its plan digest is in the journal."""

    run: str
    incident: str
    plan: str
    steps: tuple[RunStep, ...]
    limits: tuple[RunLimit, ...] = ()
    envelope: Envelope = field(default_factory=Envelope)
    """What this plan requires; an approval must cover it."""
    patience: Patience = field(default_factory=Patience)
    pace: Pace = field(default_factory=Pace)
    approvals: int = 1
    """Number of approvers, 0 if policy agreed beforehand."""
    monitor_ms: int = 0
    horizon_ms: int = 0
    """This long after its start the run begins nothing more and ends as timed out; 0: never."""
    mend_ms: int = 0
    """How long steps that wait for a server that does not come up are held, so that a repaired plan can start
    them elsewhere; then the run continues without them.
    """
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    leaves: tuple[Left, ...] = ()
    """What the plan does not restore: its run never ends as simply succeeded."""


EffectKind = Literal["start", "observe", "undo", "record", "notify"]


class Effect(NamedTuple):
    """What to do next. start, observe, undo: a step through its driver. record: append `event` (a timer
    expired, a run ended, a person is needed). notify: alert people; nothing depends on it.
    """

    kind: EffectKind
    step: str = ""
    attempt: int = 0
    event: Event | None = None
    words: str = ""


_Fact = TypeVar("_Fact")
Renumber = Callable[[int], int | None]
"""The new number of a step; None if nothing about it is kept."""


def renumbered(steps: Iterable[int], number_of: Renumber) -> set[int]:
    return {j for i in steps if (j := number_of(i)) is not None}


def renumbered_facts(facts: Mapping[int, _Fact], number_of: Renumber) -> dict[int, _Fact]:
    """In the same order."""
    return {j: fact for i, fact in facts.items() if (j := number_of(i)) is not None}
