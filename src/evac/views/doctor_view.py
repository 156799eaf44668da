"""What can be done for each service and store, by whom, and if not by evac, why, as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from evac.model.records import dataclass
from evac.views.sheet import Page
from evac.views.words import moment, plural

Verdict = Literal["automatic", "by hand", "nobody"]
"""automatic: evac does it. by hand: a person has to. nobody: nothing is available that could do it."""
SET_CLOCK: Final = "synchronise the clocks; times of journals, proofs and copies depend on them"
_WORST_LAST: Final[tuple[Verdict, ...]] = ("automatic", "by hand", "nobody")


@dataclass(frozen=True, slots=True)
class Ability:
    """One action that plans need for a service or a store."""

    subject: str
    kind: Literal["service", "store"]
    what: str
    """For example: promote at muc."""
    verdict: Verdict
    endpoint: str = ""
    """Id of the endpoint that would do it; empty if there is none."""
    code: str = ""
    """Why the endpoint cannot do it now, for programs; empty if it can, or if there is no endpoint."""
    why: str = ""
    """Why evac does not do it, for people."""
    next: str = ""
    """What would change that."""

    @property
    def is_broken(self) -> bool:
        """Whether there is an endpoint that cannot do its job."""
        return bool(self.endpoint and self.code)


@dataclass(frozen=True, slots=True)
class NextStep:
    """One thing to do, and what it would change."""

    words: str
    abilities: tuple[Ability, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        """Services and stores that it helps."""
        return tuple(sorted({a.subject for a in self.abilities}))

    @property
    def rank(self) -> tuple[int, int, str, str]:
        first = self.abilities[0]
        gravity = 0 if first.is_broken else 1 if first.verdict == "nobody" else 2
        return gravity, -len(self.subjects), self.words, first.endpoint


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything plans need from an estate's systems, and whether they can do it."""

    estate: str
    asked_at_ms: int
    abilities: tuple[Ability, ...]
    endpoints: int
    """Number of endpoints that were asked."""
    clocks: tuple[str, ...] = ()
    """What is wrong with the clocks of agents, or with that of the machine that asked."""

    def verdict(self, subject: str) -> Verdict:
        """The worst verdict among a subject's abilities."""
        return max((a.verdict for a in self.abilities if a.subject == subject), key=_WORST_LAST.index)

    def subjects(self) -> tuple[tuple[str, str], ...]:
        """(kind, id) of all subjects: stores first, worst first."""
        found = dict.fromkeys((a.kind, a.subject) for a in self.abilities)
        return tuple(
            sorted(
                found,
                key=lambda one: (-_WORST_LAST.index(self.verdict(one[1])), one[0] != "store", one[1]),
            )
        )

    def of(self, kind: str, subject: str) -> tuple[Ability, ...]:
        """The abilities of one service or store."""
        return tuple(a for a in self.abilities if (a.kind, a.subject) == (kind, subject))

    def counts(self) -> dict[Verdict, int]:
        """How many services and stores have each verdict, the best first."""
        verdicts = [self.verdict(subject) for _, subject in self.subjects()]
        return {one: verdicts.count(one) for one in _WORST_LAST}

    def broken(self) -> tuple[str, ...]:
        """Ids of the endpoints that cannot do their job."""
        return tuple(sorted({a.endpoint for a in self.abilities if a.is_broken}))

    def next_steps(self) -> tuple[NextStep, ...]:
        """What would change a verdict: broken endpoints, then what is impossible, then what helps most."""
        found: dict[tuple[str, str], list[Ability]] = {}
        for ability in self.abilities:
            if ability.next and ability.verdict != "automatic":
                of = ability.endpoint if ability.is_broken else ability.verdict
                found.setdefault((of, ability.next), []).append(ability)
        steps = [NextStep(words, tuple(of)) for (_, words), of in found.items()]
        return tuple(sorted(steps, key=lambda step: step.rank))

    @property
    def is_well(self) -> bool:
        """Whether every endpoint can do its job, and someone can do the rest."""
        return not self.clocks and not any(a.is_broken or a.verdict == "nobody" for a in self.abilities)


def diagnosis_json(found: Diagnosis) -> dict[str, Any]:
    """The body of the JSON document."""
    return {
        "estate": found.estate,
        "asked_at": moment(found.asked_at_ms),
        "well": found.is_well,
        "endpoints": found.endpoints,
        "clocks": list(found.clocks),
        "subjects": [
            {
                "id": subject,
                "kind": kind,
                "verdict": found.verdict(subject),
                "abilities": [
                    {
                        "what": a.what,
                        "verdict": a.verdict,
                        "endpoint": a.endpoint or None,
                        "code": a.code or None,
                        "why": a.why or None,
                        "next": a.next or None,
                    }
                    for a in found.abilities
                    if a.subject == subject and a.kind == kind
                ],
            }
            for kind, subject in found.subjects()
        ],
    }


def diagnosis_text(found: Diagnosis, width: int, colour: bool) -> str:
    """A line for each service and store, then what evac cannot do and why."""
    page = Page(width, colour)
    rows = []
    for kind, subject in found.subjects():
        mine = [a for a in found.abilities if (a.kind, a.subject) == (kind, subject)]
        counts = [f"{sum(a.verdict == one for a in mine)}" for one in _WORST_LAST]
        rows.append((subject, kind, found.verdict(subject), *(one if one != "0" else "-" for one in counts)))
    page.table(("name", "kind", "verdict", *_WORST_LAST), rows)
    for words in found.clocks:
        page.line()
        page.line(f"{words} [clock-off]", "warning")
        page.line(f"next: {SET_CLOCK}")
    for title, wanted in (
        ("Endpoints that cannot do their job", [a for a in found.abilities if a.is_broken]),
        ("Nobody can", [a for a in found.abilities if a.verdict == "nobody"]),
        ("By hand", [a for a in found.abilities if a.verdict == "by hand" and not a.is_broken]),
    ):
        if wanted:
            page.line()
            page.title(f"{title}: {len(wanted):,}")
        for hint, lines in _by_hint(wanted):
            for line in lines:
                page.line(line)
            if hint:
                page.line(f"next: {hint}")
    page.line()
    page.line(f"{plural(found.endpoints, 'endpoint')} checked; nothing was changed.")
    return page.text()


def _by_hint(wanted: Sequence[Ability]) -> list[tuple[str, list[str]]]:
    """(what to do next, the lines that it is for): a hint once, and a reason once for all actions of the same
    services and stores.
    """
    subjects: dict[tuple[str, str, str, str], list[str]] = {}
    for one in wanted:
        subjects.setdefault((one.next, one.why, one.code, one.what), []).append(one.subject)
    actions: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (hint, why, code, what), names in subjects.items():
        actions.setdefault((hint, why, code, tuple(names)), []).append(what)
    found: dict[str, list[str]] = {}
    for (hint, why, code, of), whats in actions.items():
        line = f"{', '.join(of)}: {', '.join(whats)}: {why}" + (f" [{code}]" if code else "")
        found.setdefault(hint, []).append(line)
    return sorted(found.items(), key=lambda row: not row[0])  # without a hint: last, below no other's


@dataclass(frozen=True, slots=True)
class Tried:
    """One promise of the driver contract, tested on one endpoint."""

    what: str
    passed: bool
    said: str
    """What the driver answered, or what was wrong."""


def tried_json(endpoint: str, driver: str, tried: tuple[Tried, ...]) -> dict[str, Any]:
    """The body of the JSON document."""
    rows = [{"what": one.what, "passed": one.passed, "said": one.said} for one in tried]
    return {"endpoint": endpoint, "driver": driver, "passed": all(one.passed for one in tried), "tried": rows}


def tried_text(endpoint: str, driver: str, tried: tuple[Tried, ...], width: int, colour: bool) -> str:
    """A line for each promise, and the result."""
    page = Page(width, colour)
    page.title(f"{endpoint}, driver {driver}")
    page.table(("result", "what", "said"), [("ok" if t.passed else "failed", t.what, t.said) for t in tried])
    failed = sum(not one.passed for one in tried)
    page.line()
    page.line(f"{len(tried) - failed} of {plural(len(tried), 'check')} passed")
    return page.text()
