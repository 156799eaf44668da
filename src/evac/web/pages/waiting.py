"""The page Approvals: everything that waits for a person, in all runs, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from fastapi import Request, Response

from evac.model.records import dataclass
from evac.office.values import RunShort, Situation
from evac.run.values import CORRUPT
from evac.run.waits import Gate, Wait
from evac.views.decisions import Decision, asked_words, cost_words, decision_of, waiting_words, why_words
from evac.views.wait_words import commands, urgency, words_of
from evac.views.words import plural
from evac.web.api.runs import kept_plan, shown_of
from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/waiting", "Approvals", icon="hand", group="Respond", badge="waits", key="a")
AGE_MS: Final = 10_000
ROWS_MOST: Final = 100
"""Maximum rows. A run of thousands of servers may have as many failed steps; the page of the run lists
them all.
"""

NOTHING_ASKED: Final[Mapping[tuple[str, str], Decision]] = MappingProxyType({})
FAR_OFF: Final = 1 << 62
"""Sorts waits with an unknown start last among their kind."""


@dataclass(frozen=True, slots=True)
class WaitLine:
    """One thing that is waiting, as a row of the page."""

    run: str
    question: str
    words: str
    since_ms: int
    """0: not known."""
    asks: tuple[tuple[str, str], ...]
    """(word, URL) of the forms that end it."""
    step: str
    commands: tuple[str, ...]
    """Equivalent commands; any one of them is enough."""
    title: str = ""
    """The decision as a question; empty if there is nothing to decide."""
    cost: str = ""
    waits: str = ""
    """Who is waiting for it."""


@PAGE.router.get(PAGE.path)
async def waiting(request: Request) -> Response:
    """What waits for a person in any run, the most urgent first."""
    room = room_of(request)
    now = room.office.situation
    now_ms = room.office.clock.now_ms() // AGE_MS * AGE_MS
    waits = room.office.register.waits
    asks: dict[tuple[str, str], Decision] = {}
    for run, found in waits.items():
        gates = [wait.step for wait in found if isinstance(wait.facts, Gate)][:ROWS_MOST]
        if gates:
            shown = await shown_of(room, run)
            plan = await kept_plan(room, shown.view)
            asks |= {(run, step): decision_of(shown, step, plan) for step in gates}

    def make() -> bytes:
        lines = lines_of(now.open_runs, waits, now.hold is not None, asks)
        return frame.render(
            "waiting.html.j2",
            PAGE.path,
            max(now_ms, now.at_ms),
            answer=answer_of(now, lines),
            hold=now.hold,
            lines=lines[:ROWS_MOST],
            rest=max(0, len(lines) - ROWS_MOST),
            unread=[run for run in now.open_runs if run.state == CORRUPT],
        )

    return frame.answer(request, "page waiting", (now.version, now_ms), make)


def lines_of(
    runs: Sequence[RunShort],
    waits: Mapping[str, Sequence[Wait]],
    on_hold: bool,
    asks: Mapping[tuple[str, str], Decision] = NOTHING_ASKED,
) -> list[WaitLine]:
    """on_hold: the hold of all runs is shown once, not again for each run. asks: the decision on each
    step that needs an approval, by run and step.
    """
    of_runs = [
        (urgency(wait), wait.since_ms or FAR_OFF, run, wait)
        for run in runs
        for wait in waits.get(run.run, ())
        if not (on_hold and wait.kind == "hold")
    ]
    of_runs.sort(key=lambda one: (one[0], one[1], one[2].run, one[3].key))
    return [_line(run, wait, asks.get((run.run, wait.step))) for _, _, run, wait in of_runs]


def _line(run: RunShort, wait: Wait, asks: Decision | None) -> WaitLine:
    line = WaitLine(
        run.run,
        run.scenario,
        words_of(wait, {one.store: one.words for one in asks.most_lost} if asks else {}),
        wait.since_ms,
        tuple(_asks(run.run, wait)),
        wait.step,
        commands(wait, run.run),
    )
    if asks is None or wait.kind != "gate":
        return line
    waits = waiting_words(asks)
    return replace(
        line,
        words=why_words(asks),
        title=asked_words(asks),
        cost=cost_words(asks),
        waits=f"{waits[:1].upper()}{waits[1:]}." if waits else "",
    )


def _asks(run: str, wait: Wait) -> Iterator[tuple[str, str]]:
    """The forms of a row. The hold of all runs is released on the page Hold."""
    of_step = f"&step={quote(wait.step, safe='')}" if wait.step else ""
    for verb in wait.verbs:
        if verb != "release":
            yield verb.capitalize(), f"/runs/{quote(run, safe='')}/ask?verb={verb}{of_step}"


def answer_of(now: Situation, lines: Sequence[WaitLine]) -> tuple[str, str]:
    """Return (one sentence, style)."""
    if now.problem and not now.open_runs:
        return f"Not known: {now.problem}", "unknown"
    count = len(lines) + (now.hold is not None)
    words = "Nothing is waiting for a person."
    if count:
        runs = plural(len({line.run for line in lines}), "run")
        verb = "waits" if count == 1 else "wait"
        words = f"{plural(count, 'decision')} {verb} for a person" + (f", in {runs}." if lines else ".")
    if now.open_runs and not now.leader.owner:
        return f"{words} No controller leads: no run continues until one does.", "error"
    return words, "warning" if count else "ok"
