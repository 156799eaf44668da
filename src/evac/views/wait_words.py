"""What a run waits for, and when everything is restored, as text and JSON: the one place that
words a `Wait`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from evac.model.records import dataclass
from evac.run.forecast import Forecast, LearnedRow, forecast
from evac.run.values import ENDED
from evac.run.view import RunView
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
    run_verbs,
    step_verbs,
)
from evac.steps.registry import kind_of
from evac.views.words import duration, listed, moment, number, plural, wall_clock_here

AGAIN_MS: Final = 10_000
"""A forecast of a large run takes a second, so it is recomputed only this often."""
LARGE: Final = 2_000
SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class ForecastRow:
    """When all servers are expected to be on, and each service restored."""

    made_at: str | None
    servers: int
    up: int
    to_the_floor: int
    all_on_at: str | None
    planned_all_on_at: str | None
    ends_at: str | None
    waits_for_a_person: bool
    services: Mapping[str, str | None]
    learned: tuple[LearnedRow, ...] = ()


class Forecaster:
    """The last forecast of each run, recomputed when it is old."""

    def __init__(self) -> None:
        self._made: dict[str, Forecast] = {}

    def of(self, view: RunView, now_ms: int) -> Forecast | None:
        """None if there is nothing to forecast: the run has ended, has not begun, or boots nothing."""
        if view.phase in ENDED or view.started_ms < 0 or not any(kind_of(s.kind).boots for s in view.steps):
            return None
        last = self._made.get(view.spec.run)
        if last is None or len(view.steps) < LARGE or now_ms - last.at_ms >= AGAIN_MS:
            last = self._made[view.spec.run] = forecast(view, now_ms)
        return last

    def end_ms(self, view: RunView, now_ms: int) -> int:
        """Expected end of the run; 0 if it is unknown, or the run is too large to compute it often."""
        said = self.of(view, now_ms)
        if said is None and view.started_ms > 0 and view.phase not in ENDED and len(view.steps) < LARGE:
            said = forecast(view, now_ms)
        return 0 if said is None else said.end_ms


FORECASTS: Final = Forecaster()
"""Forecasts of this process, which shows the same run again and again."""


def forecast_facts(said: ForecastRow) -> Iterator[tuple[str, str, str]]:
    """Rows of (name, words, style), of the document of a forecast."""
    words, style = _servers(
        said.servers,
        said.up,
        said.to_the_floor,
        _ms(said.all_on_at),
        _ms(said.planned_all_on_at),
        _ms(said.made_at),
    )
    if said.waits_for_a_person:
        words, style = f"{words}; assuming that everything waiting for a person is done now", "warning"
    yield "servers", words, style
    back = sorted(said.services.items(), key=lambda one: (one[1] or "", one[0]))
    if back:
        named = listed([f"{name} {clock(_ms(at), _ms(said.made_at))}" for name, at in back[:SHOWN]])
        more = f", and {len(back) - SHOWN} more" if len(back) > SHOWN else ""
        yield "back at", named + more, ""


def servers_words(said: Forecast) -> tuple[str, str]:
    """How many servers are up, when all will be, how many need on-site staff; and the style. Empty without
    boots.
    """
    if not said.boots:
        return "", ""
    return _servers(said.boots, said.up, said.floor, said.on_ms, said.planned_on_ms, said.at_ms)


def _servers(boots: int, ups: int, floor: int, on_ms: int, planned_ms: int, now_ms: int) -> tuple[str, str]:
    up, late_ms = f"{number(ups)} of {number(boots)} up", on_ms - planned_ms
    if floor and ups + floor >= boots:
        words = f"{up}; the others failed to boot and are left to on-site staff"
    elif ups >= boots:
        words = up
    else:
        words = f"{up}; all on at {clock(on_ms, now_ms)}, {_beside_plan(late_ms)}"
        words += (
            f"; {number(floor)} of {number(boots - ups)} not yet up are left to on-site staff"
            if floor
            else ""
        )
    return words, "warning" if late_ms > 60_000 or floor else ""


def _ms(at: str | None) -> int:
    return 0 if at is None else round(datetime.fromisoformat(at).timestamp() * 1_000)


def _beside_plan(late_ms: int) -> str:
    if abs(late_ms) < 60_000:
        return "as planned"
    return f"{duration(abs(late_ms) // 60_000 * 60_000)} {'later' if late_ms > 0 else 'earlier'} than planned"


def clock(at_ms: int, now_ms: int = 0) -> str:
    """Hours and minutes in the readers' time zone; with the date if it is not that of `now_ms`."""
    return wall_clock_here().bare(at_ms, now_ms or at_ms)


def forecast_row(said: Forecast | None) -> ForecastRow | None:
    if said is None:
        return None
    return ForecastRow(
        made_at=moment(said.at_ms, "seconds"),
        servers=said.boots,
        up=said.up,
        to_the_floor=said.floor,
        all_on_at=moment(said.on_ms, "seconds"),
        planned_all_on_at=moment(said.planned_on_ms, "seconds"),
        ends_at=moment(said.end_ms, "seconds"),
        waits_for_a_person=said.waits,
        services={name: moment(at_ms, "seconds") for name, at_ms in said.services.items()},
        learned=said.learned,
    )


@dataclass(frozen=True, slots=True)
class WaitRow:
    """One thing that only a person can do."""

    kind: WaitKind
    step: str
    since: str | None
    verbs: tuple[Verb, ...]
    """Requests that end the wait."""
    facts: Mapping[str, Any]
    """Details, by kind."""
    words: str
    next: str
    """The command that ends the wait; empty if there is none."""


FIRST: Final[tuple[WaitKind, ...]] = ("approval", "pause", "gate", "by_hand", "outcome", "failure")
"""Kinds of waits in order of urgency; kinds not listed come last."""


def urgency(wait: Wait | WaitRow) -> int:
    """The lower the number, the more urgent."""
    return FIRST.index(wait.kind) if wait.kind in FIRST else len(FIRST)


NO_LOSSES: Final[Mapping[str, str]] = MappingProxyType({})


def words_of(wait: Wait, losses: Mapping[str, str] = NO_LOSSES) -> str:
    """One sentence without a full stop: what is wrong or missing, and what to do. losses: store -> the
    most that its promotion may lose, as far as is known now.
    """
    match wait.facts:
        case Approval():
            return _approval(wait.facts)
        case Hold(who):
            return f"on hold by {who}: release the hold to continue"
        case Paused():
            return _paused(wait.facts, wait.since_ms)
        case DeadBootServer(server, boots):
            waits = plural(boots, "boot waits", "boots wait")
            return (
                f"fix boot server {server}: servers that boot from it do not come up, and its site has no "
                f"other; {waits}, and one server at a time tries it"
            )
        case DoubtfulBootServer(server, boots, retry_ms):
            recent = plural(boots, "recent boot", "recent boots")
            return (
                f"check boot server {server}: {recent} from it did not come up; "
                f"next retry at {clock(retry_ms)} {wall_clock_here().label(retry_ms)}"
            )
        case SilentNetwork(feeds, servers):
            return (
                f"check the switches and the breaker of the management network behind "
                f"{' and '.join(feeds)}: no controller there has answered yet; "
                f"{plural(servers, 'server waits', 'servers wait')}, and all are retried once one answers"
            )
        case Gate(reason, store):
            most = f" (at most {losses[store]})" if store in losses else ""
            return f"{wait.step} needs approval: {reason}{most}"
        case ByHand():
            then = f"then attest {wait.step}"
            if "attest" not in wait.verbs:
                then = (
                    "the policy does not accept an attestation for it: skip "
                    f"{wait.step} to continue without it"
                )
            by_hand = wait.facts.instructions or f"{kind_of(wait.facts.step_kind).title}, {wait.facts.target}"
            return f"by hand: {by_hand}; {then}"
        case ByHandLater():
            return f"{wait.step} can wait: a step that it depends on must be done again"
        case Outcome(step_kind, why):
            because = f" ({why})" if why else ""
            return f"{wait.step}: outcome unknown{because}; {_once_checked(wait, step_kind)}"
        case Failure(_, message):
            because = f" ({message})" if message else ""
            if "attest" in wait.verbs:
                return (
                    f"{wait.step} failed{because}; make sure that the old primary cannot write, then attest "
                    "it; or retry it"
                )
            return f"{wait.step} failed{because}{'; retry or skip it' if 'retry' in wait.verbs else ''}"


def wait_row(wait: Wait, run: str, losses: Mapping[str, str] = NO_LOSSES) -> WaitRow:
    return WaitRow(
        kind=wait.kind,
        step=wait.step,
        since=moment(wait.since_ms),
        verbs=wait.verbs,
        facts=asdict(wait.facts),
        words=words_of(wait, losses),
        next=", or ".join(commands(wait, run)),
    )


def commands(wait: Wait, run: str) -> tuple[str, ...]:
    """The commands that end the wait, any one of them; none if no command does."""
    if "retry" in wait.verbs:
        verbs = (
            ("attest", "retry") if wait.kind == "failure" and "attest" in wait.verbs else ("retry", "skip")
        )
        return tuple(f"evac run {verb} {run} {wait.step} --reason WHY" for verb in verbs)
    return (_command(wait, run, wait.verbs[0]),) if wait.verbs else ()


def possible(view: RunView, step: str = "") -> str:
    """Possible requests, as commands: for the step, or else for its run; where to look if there are none."""
    run, verbs = view.spec.run, step_verbs(view, view.number(step)) if step else ()
    if not verbs:
        step, verbs = "", run_verbs(view)
    approval = Approval(view.approvals.counted, view.spec.approvals, view.approvals.untyped)
    wait = Wait(approval, verbs, step)
    found = ", or ".join(_command(wait, run, verb) for verb in verbs)
    return f"possible now: {found}" if found else f"see: evac run show {run}"


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


def _paused(facts: Paused, since_ms: int) -> str:
    words = f"paused ({facts.by}: {facts.reason or 'no reason given'}): resume the run to continue"
    if facts.until_ms and facts.then == "resume":
        words += f"; it resumes by itself at {wall_clock_here().local(facts.until_ms, since_ms)}"
    if facts.until_ms and facts.then == "cancel":
        words += f"; it is cancelled at {wall_clock_here().local(facts.until_ms, since_ms)}"
    return words


def _once_checked(wait: Wait, step_kind: str) -> str:
    """What to do about a step in doubt. Once its run has ended, only the location of a primary can be
    attested.
    """
    if "retry" in wait.verbs:
        return "check it, then attest, retry or skip it"
    if "skip" in wait.verbs:
        return "check it, then attest or skip it"
    return (
        "check it, then attest it with --seen primary=SITE"
        if kind_of(step_kind).makes_primary
        else "check it"
    )
