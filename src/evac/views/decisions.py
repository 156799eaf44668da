"""A decision for a person, and the effect of each choice, as one document for pages, API and commands. Pure.

For a step or a whole run: what it does, the most data it may lose, which services wait for it and how many
people use them, and the consequences of each possible request, and of waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.step_id import MOVED, StepId, plan_id
from evac.run.values import ENDED, SETTLED
from evac.run.view import RunView
from evac.run.waits import run_verbs, step_verbs
from evac.steps.registry import kind_of
from evac.views.documents import SCHEMA_VERSION, LossRow, RunShown
from evac.views.sheet import Page
from evac.views.words import listed, people, people_between, plural

STEPS_MOST: Final = 20
SERVICES_MOST: Final = 100
Answer = Literal["approve", "attest", "cancel", "pause", "resume", "retry", "skip", "undo", "wait"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A service that is down or degraded until the step is done."""

    service: str
    tier: int | None
    people: int | None
    """None: not known, because the plan is not stored or does not state it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One possible choice and its consequences."""

    answer: Answer
    words: str
    services: tuple[str, ...] = ()
    """Services that this run does not restore, at least not until somebody decides otherwise."""
    steps: tuple[str, ...] = ()
    """The first steps that are skipped or undone."""
    steps_all: int = 0
    kept: tuple[str, ...] = ()
    """The first completed steps that are not undone."""
    again: tuple[str, ...] = ()
    """Services that lose what the run did for them and may go down again."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision for people to make. `step` empty: about the whole run."""

    schema_version: int
    run: str
    incident: str
    step: str
    kind: str
    state: str
    """State of the step, or of the run."""
    does: str
    reason: str
    """Why it needs an approval; empty if it needs none now."""
    most_lost: tuple[LossRow, ...]
    waiting: tuple[Waiting, ...]
    waiting_all: int
    people_least: int
    people_most: int
    """Users of several services count once in `people_least` and once per service in `people_most`."""
    people_unstated: int
    """Services that do not state their number of users."""
    choices: tuple[Choice, ...]

    def choice(self, answer: str) -> Choice | None:
        return next((one for one in self.choices if one.answer == answer), None)


def decision_of(shown: RunShown, step: str, plan: Plan | None) -> Decision:
    """`plan`: the current one, None if it is not stored. Raises RunError for a step that the run does not
    have.
    """
    view = shown.view
    if step:
        return _of_step(shown, view.number(step), plan)
    down = _unrestored(view)
    waiting = list(_waiting(down, plan))
    losses = shown.losses if view.phase not in ENDED else ()
    return _decision(
        shown,
        "",
        "run",
        view.phase,
        view.spec.labels.get("scenario", ""),
        "the run needs approval" if view.phase == "awaiting_approval" else "",
        losses,
        waiting,
        tuple(_run_choices(view, down)),
    )


def _decision(
    shown: RunShown,
    step: str,
    kind: str,
    state: str,
    does: str,
    reason: str,
    losses: tuple[LossRow, ...],
    waiting: list[Waiting],
    choices: tuple[Choice, ...],
) -> Decision:
    counts = [one.people for one in waiting if one.people is not None]
    spec = shown.view.spec
    return Decision(
        SCHEMA_VERSION,
        spec.run,
        spec.incident,
        step,
        kind,
        state,
        does,
        reason,
        losses,
        tuple(waiting[:SERVICES_MOST]),
        len(waiting),
        max(counts, default=0),
        sum(counts),
        len(waiting) - len(counts),
        choices,
    )


def _of_step(shown: RunShown, i: int, plan: Plan | None) -> Decision:
    view, step = shown.view, shown.view.steps[i]
    kind = kind_of(step.kind)
    losses = tuple(one for one in shown.losses if kind.makes_primary and one.store == step.target)
    services = served_by(view, i, plan)
    where = f" in {step.site}" if step.site not in ("", step.target) else ""
    return _decision(
        shown,
        step.id,
        step.kind,
        view.phases[i],
        f"{kind.title}: {step.target}{where}",
        view.gate_of(i),
        losses,
        list(_waiting(services, plan)),
        tuple(_step_choices(view, i, losses, services)),
    )


def _waiting(services: Iterable[str], plan: Plan | None) -> Iterator[Waiting]:
    """Most important first: by tier, then by people."""
    known = {one.service: one for one in plan.outcomes} if plan is not None else {}
    unstated = plan.unstated if plan is not None else frozenset()
    found = []
    for name in services:
        one = known.get(name)
        count = None if one is None or name in unstated else one.people
        found.append(Waiting(name, None if one is None else one.tier, count))
    yield from sorted(found, key=lambda w: (9 if w.tier is None else w.tier, -(w.people or 0), w.service))


def _is_base(step: str) -> bool:
    return StepId.parse(step).milestone not in ("top", MOVED)


def _unrestored(view: RunView) -> list[str]:
    """Services with an unfinished step in their base."""
    return list(
        dict.fromkeys(
            step.target
            for i, step in enumerate(view.steps)
            if kind_of(step.kind).phase and view.phases[i] not in SETTLED and _is_base(step.id)
        )
    )


def served_by(view: RunView, i: int, plan: Plan | None) -> list[str]:
    """Services that are not restored until step i is done."""
    seen, queue, found = {i}, [i], list[str]()
    while queue:
        j = queue.pop()
        step = view.steps[j]
        if view.phases[j] not in SETTLED and kind_of(step.kind).phase and _is_base(step.id):
            found.append(step.target)
        for k in view.dependents[j]:
            if k not in seen:
                seen.add(k)
                queue.append(k)
    if plan is not None and view.phases[i] not in SETTLED:
        name = plan_id(view.steps[i].id)
        found += [one.service for one in plan.outcomes if name in one.critical]
    return list(dict.fromkeys(found))


def _step_choices(
    view: RunView, i: int, losses: tuple[LossRow, ...], services: list[str]
) -> Iterator[Choice]:
    step = view.steps[i]
    kind, verbs = kind_of(step.kind), step_verbs(view, i)
    named = tuple(services[:SERVICES_MOST])
    if "approve" in verbs:
        words = "The step starts."
        if kind.makes_primary:
            words += f" {step.target} accepts writes again once it is done. "
            words += "Writes that the new primary does not have are lost for good. This cannot be undone."
        yield Choice("approve", words)
    if "retry" in verbs:
        yield Choice("retry", "The step is retried once.")
    if "attest" in verbs:
        yield Choice("attest", "The step counts as done because you checked it. Your name is recorded.")
    if "skip" in verbs:
        words = "Skips this step and continues. Steps that depend on it may fail."
        if kind.makes_primary:
            words = f"{step.target} gets no primary through this run. {words}"
        yield Choice("skip", words, named)
    if "undo" in verbs:
        yield Choice(
            "undo", f"The step is undone: {kind.undo or 'its effect is reverted'}.", (), (step.id,), 1
        )
    if verbs and view.phases[i] not in SETTLED:
        yield Choice("wait", _wait_words(view, losses, services), named)


def _wait_words(view: RunView, losses: tuple[LossRow, ...], services: list[str]) -> str:
    words = "The step does not start."
    if services:
        words += f" {_stay(services)}"
    for one in losses:
        if one.basis == "seen":
            words += (
                " The possible loss does not grow: the old primary is fenced."
                if one.is_final
                else " The possible loss grows until the old primary is fenced."
            )
    ends_ms = view.started_ms + view.spec.horizon_ms if view.spec.horizon_ms and view.started_ms > 0 else 0
    return words + (" The run times out at its horizon." if ends_ms else "")


def _stay(services: list[str]) -> str:
    one = len(services) == 1
    return f"{plural(len(services), 'service')} {'stays as it is' if one else 'stay as they are'}."


def _run_choices(view: RunView, down: list[str]) -> Iterator[Choice]:
    verbs, named = run_verbs(view), tuple(down[:SERVICES_MOST])
    left = [s.id for i, s in enumerate(view.steps) if view.phases[i] in ("pending", "ready", "failed")]
    done = [i for i, phase in enumerate(view.phases) if phase == "succeeded"]
    undone = [view.steps[i].id for i in done if view.steps[i].safe_undo]
    kept = [view.steps[i].id for i in done if not view.steps[i].safe_undo]
    if "approve" in verbs:
        yield Choice(
            "approve",
            "The run starts, limited to what is listed here. It asks again for anything beyond that.",
        )
    if "pause" in verbs:
        yield Choice("pause", "No new steps start until the run resumes. Running steps finish.", named)
    if "resume" in verbs:
        yield Choice("resume", "New steps can start again.")
    if "undo" in verbs:
        words = "Completed steps are undone where evac is allowed to. Stores stay where they are."
        back = [view.steps[i] for i in done if view.steps[i].safe_undo and kind_of(view.steps[i].kind).phase]
        again = [name for name in dict.fromkeys(step.target for step in back) if name not in down]
        yield Choice(
            "undo",
            words,
            named,
            tuple(undone[:STEPS_MOST]),
            len(undone),
            tuple(kept[:STEPS_MOST]),
            tuple(again[:SERVICES_MOST]),
        )
    if "cancel" in verbs:
        words = "No new steps start. Running steps finish. Completed steps are not rolled back. The run ends."
        kept = [view.steps[i].id for i in done]
        yield Choice("cancel", words, named, tuple(left[:STEPS_MOST]), len(left), tuple(kept[:STEPS_MOST]))
    if view.phase == "awaiting_approval":
        words = "Nothing starts."
        if down:
            words += f" {_stay(down)}"
        yield Choice("wait", words, named)


def asked_words(document: Decision) -> str:
    """`Promote sessions in anyang?`: the decision as a question."""
    if not document.step:
        return f"Start the run{' for the ' + document.does if document.does else ''}?"
    for one in document.most_lost:
        return f"Promote {one.store}{' in ' + one.candidate if one.candidate else ''}?"
    return f"{document.does[:1].upper()}{document.does[1:]}?"


def cost_words(document: Decision) -> str:
    """`at most 20.8 s of sessions`: what approving may lose; empty if nothing."""
    parts = [
        f"{one.figure if one.milliseconds is None else 'at most ' + one.figure} of {one.store}"
        for one in document.most_lost
        if one.milliseconds != 0
    ]
    return listed(parts, 3)


def why_words(document: Decision) -> str:
    """How the data loss is known; if there is none, why the step needs an approval."""
    known = [one.sentence for one in document.most_lost if one.milliseconds != 0]
    if known:
        return f"How this is known: {'; '.join(known)}"
    return document.reason[:1].upper() + document.reason[1:]


def waiting_words(document: Decision) -> str:
    """`taxi (9 million people) and 2 more wait for it`; empty if no service does."""
    if not document.waiting:
        return ""
    first = document.waiting[0]
    rest = document.waiting_all - 1
    words = first.service + ("" if first.people is None else f" ({people(first.people)} people)")
    return f"{words} and {rest} more wait for it" if rest else f"{words} waits for it"


def people_words(document: Decision) -> str:
    """Number of users of the waiting services; empty if no plan states it."""
    least, most = document.people_least, document.people_most
    return people_between(least, most, document.people_unstated) if most else ""


def decision_text(document: Decision, width: int, colour: bool) -> str:
    """One screen: what it does, what may be lost, who waits, and what follows from each answer."""
    page = Page(width, colour)
    page.title(f"{document.step or document.run}: {document.does}")
    page.line()
    if document.reason:
        page.line(f"needs approval because {document.reason}")
    for one in document.most_lost:
        page.line(f"worst-case loss: {one.sentence}", "" if one.milliseconds == 0 else "warning")
    names = [
        one.service + ("" if one.people is None else f" ({people(one.people)})") for one in document.waiting
    ]
    if names:
        count = people_words(document)
        page.line(f"waits for it: {listed(names)}" + (f"; {count} people" if count else ""))
    else:
        page.line("no service waits for it")
    page.line()
    for choice in document.choices:
        page.line(f"{choice.answer}: {choice.words}")
        if choice.services and choice.answer in ("skip", "cancel"):
            page.line(f"  not restored by this run: {listed(choice.services, 12)}", "warning")
        if choice.again:
            page.line(f"  may go down again: {listed(choice.again, 12)}", "warning")
        if choice.steps:
            what = "undone" if choice.answer == "undo" else "left out"
            more = f" and {choice.steps_all - len(choice.steps)} more" * (
                choice.steps_all > len(choice.steps)
            )
            page.line(f"  {what}: {', '.join(choice.steps)}{more}")
    return page.text()
