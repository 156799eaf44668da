"""The current status: open runs, the hold, standby plans, the last alerts: frozen documents, text, JSON.

`evac status`, `evac run list` and `evac drawer list` show them, from the store or from a war room, which
knows more about runs, plans and the hold and shows the same fields first. Times are milliseconds since 1970,
0 for never; in the JSON of commands they are ISO 8601, UTC, and null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import orjson

from evac.incident.records import Notice
from evac.model.records import dataclass
from evac.run.values import CORRUPT
from evac.views.sheet import Page
from evac.views.words import NO_LEADER, listed, moment, plural

ROWS: Final = 20
SCHEMA_VERSION: Final = 1
_DIGEST: Final = 19


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in a list."""

    run: str
    incident: str
    state: str
    scenario: str
    plan: str
    """Digest of the current plan; empty, like the scenario, if the journal cannot be read."""
    created_ms: int

    @property
    def row(self) -> dict[str, Any]:
        """As `evac run list --output json` shows it."""
        return {
            "run": self.run,
            "incident": self.incident,
            "plan_digest": self.plan,
            "state": self.state,
            "scenario": self.scenario,
            "started_at": moment(self.created_ms),
        }


@dataclass(frozen=True, slots=True)
class PlanLine:
    """A plan in the library, or why there is none."""

    scenario: str
    lost: tuple[str, ...]
    plan: str
    """Digest; empty if no plan could be made."""
    estate: str
    """Digest; empty for a plan that this version's checker has not judged yet."""
    at_ms: int
    """When it was made, or last confirmed for the estate as it was then."""
    took_ms: int
    problem: str

    @property
    def row(self) -> dict[str, Any]:
        """As `evac drawer list --output json` shows it."""
        return {
            "scenario": self.scenario,
            "lost": self.lost,
            "plan": self.plan,
            "estate": self.estate,
            "at": moment(self.at_ms),
            "took_ms": self.took_ms,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class HoldLine:
    """Who placed the hold, and why."""

    who: str
    reason: str
    at_ms: int


def hold_line(held: bytes | Mapping[str, Any]) -> HoldLine:
    """`held`: as the store or a war room has it. A hold that cannot be read still counts."""
    try:
        said = orjson.loads(held) if isinstance(held, bytes) else held
        return HoldLine(str(said["who"]), str(said["reason"]), int(said.get("at_ms", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return HoldLine("", "it cannot be read", 0)


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """What `evac status` shows."""

    schema_version: int
    store: str
    leader: str
    hold: HoldLine | None
    generation: int
    """Generation of the store."""
    newer_generation: int
    """Generation that replaced this store; 0 for none."""
    sites: Mapping[str, str]
    """Site -> its mark in the register, sorted."""
    runs: tuple[RunLine, ...]
    """Open ones."""
    plans: tuple[PlanLine, ...]
    notices: tuple[Notice, ...]
    background: str = ""
    """The leading controller, if a command started it for its run: pid, estate and since when."""
    unread: tuple[str, ...] = ()
    """Store entries that cannot be read; their content is unknown."""
    silent: tuple[str, ...] = ()
    """Sites that every witness reports down, whatever their mark."""

    @property
    def row(self) -> dict[str, Any]:
        """As `evac status --output json` shows it."""
        hold = self.hold
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "hold": hold and {"who": hold.who, "reason": hold.reason, "at": moment(hold.at_ms)},
            "runs": [one.row for one in self.runs],
            "plans": [one.row for one in self.plans],
            "notices": [
                {
                    "number": one.number,
                    "at": moment(one.at_ms),
                    "kind": one.kind,
                    "site": one.site,
                    "words": one.words,
                }
                for one in self.notices
            ],
        }


def _generation(document: StatusDocument) -> list[tuple[str, str, str]]:
    """Only if there was more than the first one."""
    own, newer = document.generation, document.newer_generation
    if newer:
        words = f"{own}, but {newer} was opened elsewhere: controllers of this store no longer act"
        return [("generation", words, "error")]
    return [("generation", str(own), "")] if own else []


def status_text(
    document: StatusDocument, width: int, colour: bool, situation: Mapping[str, Any] | None = None
) -> str:
    """One screen: leader, hold, marked sites, open runs, standby plans, the last alerts. `situation`: what is
    not as declared in the files.
    """
    page = Page(width, colour)
    leader, hold, runs = document.leader, document.hold, document.runs
    page.title(f"{plural(len(runs), 'run')} in progress; {leader or 'no one'} leads")
    page.line()
    rows = [
        ("leader", leader or NO_LEADER, "" if leader else "error"),
        *([("background", document.background, "")] if document.background else []),
        ("store", document.store, ""),
        *_generation(document),
        (
            "hold",
            _hold_words(hold) if hold else "none",
            "warning" if hold else "",
        ),
        *((key, "cannot be read; nothing happens until it can", "error") for key in document.unread),
        *(_site(document, site, mark) for site, mark in document.sites.items()),
    ]
    page.facts(rows)
    _differences(page, situation, bool(leader), document.silent)
    if runs:
        page.line()
        page.table(
            ("run", "state", "scenario"),
            [(row.run, row.state.replace("_", " "), row.scenario) for row in runs[:ROWS]],
            whole=(0,),
        )
    left = {site for site, mark in document.sites.items() if mark != "active"}
    ready = [row for row in document.plans if not row.lost or not left.issuperset(row.lost)]
    if document.plans:
        page.line()
        page.line("Standby plans", "bold")
        page.table(_DRAWER, [_drawn(row) for row in ready[:ROWS]])
    if gone := len(document.plans) - len(ready):
        page.line(f"{plural(gone, 'plan')} for domains that are already lost: evac drawer list", "dim")
    if document.notices:
        page.line()
        page.line("Last notices", "bold")
        page.table(
            ("when", "what"), [((moment(one.at_ms) or "-")[:19], one.words) for one in document.notices]
        )
    next_words = situation["next"] if situation else runs and f"evac run show {runs[0].run}"
    page.line()
    page.line(f"next: {next_words or 'evac drawer list'}", "dim")
    return page.text()


def _site(document: StatusDocument, site: str, mark: str) -> tuple[str, str, str]:
    if site in document.silent and mark == "active":
        return site, "does not answer; still marked as active", "error"
    return site, mark, "" if mark == "active" else "warning"


def _hold_words(hold: HoldLine) -> str:
    if not hold.who:
        return f"{hold.reason}; nothing new starts until evac hold --release"
    return f"by {hold.who} since {moment(hold.at_ms)}: {hold.reason}"


def _differences(
    page: Page, situation: Mapping[str, Any] | None, is_led: bool, silent: Sequence[str]
) -> None:
    """What is not as declared in the files, worst first. is_led: whether a controller keeps looking; silent:
    sites that do not answer.
    """
    if situation is None or not (situation["words"] or situation["compared"]):
        return
    page.line()
    page.line("Away from home" if situation["words"] else _at_home(situation, silent), "bold")
    severe = len(situation["rivals"]) + len(situation["silent"])
    for place, words in enumerate(situation["words"]):
        page.line(words, "error" if place < severe else "")
    if situation["observed_at"] and not is_led:
        page.line(f"As last observed at {situation['observed_at'][:19]}; now: evac observe ESTATE", "dim")


def _at_home(situation: Mapping[str, Any], silent: Sequence[str]) -> str:
    """What was not observed, or is at a site that does not answer, may be anywhere."""
    if not situation["observed"]:
        if situation["unobserved"]:
            return "No run has moved anything, but no store was observed: evac observe ESTATE"
        return "No run has moved anything, but nothing was observed: this is what the files declare."
    if silent:
        verb = "does" if len(silent) == 1 else "do"
        unseen = f"; not observed: {listed(situation['unobserved'])}" if situation["unobserved"] else ""
        return (
            "Everything that answers is where the files declare it. "
            f"Unknown: what happens at {listed(list(silent))}, which {verb} not answer{unseen}."
        )
    if not situation["unobserved"]:
        return "Everything is where the files declare it."
    return (
        "Everything that was observed is where the files declare it. "
        f"Not observed: {listed(situation['unobserved'])}."
    )


_DRAWER: Final = ("if lost", "plan", "made, UTC", "")


def _drawn(row: PlanLine) -> tuple[str, str, str, str]:
    made = (moment(row.at_ms) or "-")[:19].replace("T", " ")
    return listed(row.lost), row.plan[:_DIGEST] or "none", made, row.problem


def drawer_text(rows: Sequence[PlanLine], width: int, colour: bool) -> str:
    """One line per scenario."""
    page = Page(width, colour)
    if not rows:
        page.line("no plan is ready; the leading controller makes them: evac serve")
        return page.text()
    page.table(_DRAWER, [_drawn(row) for row in rows])
    page.line()
    page.line("next: evac drawer get sha256:..., or evac apply sha256:... ESTATE", "dim")
    return page.text()


def list_text(rows: Sequence[RunLine], width: int, colour: bool) -> str:
    """One line per run: newest last."""
    page = Page(width, colour)
    heads: tuple[str, ...] = ("run", "state", "scenario", "started, UTC")
    found = [_run_row(row) for row in rows]
    if not found:
        page.line("no runs yet")
        page.line("next: evac apply PLAN ESTATE --execute --reason WHY", "dim")
        return page.text()
    needed = 2 + sum(2 + max(len(row[n]) for row in (heads, *found)) for n in range(len(heads)))
    if needed > width:  # the name of a run says its question, too
        heads, found = (heads[0], heads[1], heads[3]), [(row[0], row[1], row[3][5:16]) for row in found]
    page.table(heads, found, whole=(0, 1))
    for row in rows:
        if row.state == CORRUPT:
            page.line(f"next: evac run verify {row.run}", "dim")
    return page.text()


def _run_row(row: RunLine) -> tuple[str, ...]:
    began = (moment(row.created_ms) or "-")[:19].replace("T", " ")
    return row.run, row.state.replace("_", " "), row.scenario, began
