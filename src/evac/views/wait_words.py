"""What a run waits for, in words and as JSON: the one place that makes sentences of a `Wait`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from evac.run.waits import (
    Approval,
    ByHand,
    ByHandLater,
    DeadBootServer,
    DoubtfulBootServer,
    Failure,
    Gate,
    Hold,
    Outcome,
    Paused,
    SilentNetwork,
    Verb,
    Wait,
    WaitKind,
)
from evac.steps.registry import kind_of
from evac.views.run_forecast import clock
from evac.views.words import listed, moment, plural


@dataclass(frozen=True, slots=True)
class WaitRow:
    """One thing that only a person can do."""

    kind: WaitKind
    step: str
    since: str | None
    verbs: tuple[Verb, ...]
    """Requests that end it."""
    facts: Mapping[str, Any]
    """What is behind it, by kind."""
    words: str
    next: str
    """The command that ends it; empty where none does."""


FIRST: Final[tuple[WaitKind, ...]] = ("approval", "pause", "gate", "by_hand", "outcome", "failure")
"""Kinds of waits by what is to be done first; what is not named comes last."""


def urgency(wait: Wait | WaitRow) -> int:
    """The lower, the more urgent."""
    return FIRST.index(wait.kind) if wait.kind in FIRST else len(FIRST)


def words_of(wait: Wait) -> str:
    """One sentence without a full stop: what is wrong or missing, and what to do."""
    match wait.facts:
        case Approval():
            return _approval(wait.facts)
        case Hold(who):
            return f"on hold by {who}: release the hold to continue"
        case Paused():
            return _paused(wait.facts)
        case DeadBootServer(server, boots):
            waits = plural(boots, "boot waits", "boots wait")
            return (
                f"fix boot server {server}: boots from it do not come up, and its site has no other; "
                f"{waits}, and one server at a time tries it"
            )
        case DoubtfulBootServer(server, boots, retry_ms):
            recent = plural(boots, "recent boot", "recent boots")
            return (
                f"check boot server {server}: {recent} from it did not come up; "
                f"next retry at {clock(retry_ms)} UTC"
            )
        case SilentNetwork(feeds, servers):
            return (
                f"check the switches and the breaker of the management network behind "
                f"{' and '.join(feeds)}: no controller there has answered yet; "
                f"{plural(servers, 'server waits', 'servers wait')}, and all are retried once one answers"
            )
        case Gate(reason):
            return f"{wait.step} needs approval: {reason}"
        case ByHand():
            return f"{wait.step} is done by hand: {_by_hand(wait.facts)}; attest it when it is done"
        case ByHandLater():
            return f"{wait.step} can wait: a step that it depends on is no longer done"
        case Outcome(step_kind, why):
            because = f" ({why})" if why else ""
            return f"{wait.step}: outcome unknown{because}; {_once_checked(wait, step_kind)}"
        case Failure(_, message):
            return f"{wait.step} failed{f' ({message})' if message else ''}; retry or skip it"


def wait_row(wait: Wait, run: str) -> WaitRow:
    return WaitRow(
        kind=wait.kind,
        step=wait.step,
        since=moment(wait.since_ms),
        verbs=wait.verbs,
        facts=asdict(wait.facts),
        words=words_of(wait),
        next=", or ".join(commands(wait, run)),
    )


def commands(wait: Wait, run: str) -> tuple[str, ...]:
    """What to type to end it, one or the other; none if no command does."""
    if "retry" in wait.verbs:
        return tuple(f"evac run {verb} {run} {wait.step} --reason WHY" for verb in ("retry", "skip"))
    verb = next(iter(wait.verbs), "")
    return (_command(wait, run, verb),) if verb else ()


def _command(wait: Wait, run: str, verb: Verb) -> str:
    if verb == "approve":
        facts = wait.facts
        sites = facts.to_type if isinstance(facts, Approval) else ()
        of = f" --step {wait.step}" if wait.step else "".join(f" --confirm {site}" for site in sites)
        return f"evac approve {run}{of} --reason WHY"
    if verb == "release":
        return "evac hold --release"
    return f"evac run {verb} {run}{f' {wait.step}' if wait.step else ''} --reason WHY"


def _approval(facts: Approval) -> str:
    missing = max(facts.needed - facts.given, 1)
    words = f"needs approval by {plural(missing, 'more person', 'more people')}"
    if facts.to_type:
        words += f"; type the names of the evacuated sites to confirm: {listed(facts.to_type)}"
    return words


def _paused(facts: Paused) -> str:
    words = f"paused ({facts.by}: {facts.reason or 'no reason given'}): resume the run to continue"
    if facts.until_ms and facts.then == "resume":
        words += f"; it resumes by itself at {clock(facts.until_ms)} UTC"
    if facts.until_ms and facts.then == "cancel":
        words += f"; it is cancelled at {clock(facts.until_ms)} UTC"
    return words


def _by_hand(facts: ByHand) -> str:
    return facts.instructions or f"{kind_of(facts.step_kind).title}, {facts.target}"


def _once_checked(wait: Wait, step_kind: str) -> str:
    """What to do about a step in doubt; once its run has ended only where a primary is can be attested."""
    if "retry" in wait.verbs:
        return "check it, then attest, retry or skip it"
    return (
        "check it, then attest it with --seen primary=SITE"
        if kind_of(step_kind).makes_primary
        else "check it"
    )
