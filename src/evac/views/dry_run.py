"""A dry run: every step with what would be done and what would keep it from working now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evac.views.screen import Page
from evac.views.words import number, plural

SHOWN = 20


@dataclass(frozen=True, slots=True)
class StepChecked:
    """One step. actions, problems: in words."""

    id: str
    actions: tuple[str, ...]
    problems: tuple[str, ...]
    """What would keep it from working now."""
    manual: bool
    gate: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """The document of a dry run."""

    schema_version: int
    plan_digest: str
    question: str
    ready: bool
    needs_approval: tuple[str, ...]
    """What the envelope of the policy does not cover."""
    steps: tuple[StepChecked, ...]


def dry_run_of(
    digest: str, title: str, steps: Sequence[StepChecked], needs_approval: Sequence[str]
) -> DryRun:
    is_ready = not any(step.problems for step in steps)
    return DryRun(1, digest, title, is_ready, tuple(needs_approval), tuple(steps))


def dry_run_text(document: DryRun, saved_as: str, width: int, colour: bool) -> str:
    """One screen: what stands in the way first, then the steps, then what an approval must cover."""
    steps = document.steps
    page = Page(width, colour)
    stuck = [step for step in steps if step.problems]
    by_hand = sum(1 for step in steps if step.manual)
    verdict = "could begin now" if not stuck else f"{plural(len(stuck), 'step')} could not begin now"
    page.title(f"Dry run, {document.question}: {verdict}")
    page.line()
    page.line(f"{plural(len(steps), 'step')}, {number(by_hand)} by hand; nothing was changed")
    if stuck:
        page.line()
        page.line("In the way", "bold")
        for step in stuck[:SHOWN]:
            page.line(f"{step.id}: {'; '.join(step.problems)}", "error")
    page.line()
    page.table(("step", "what"), [(step.id, "; ".join(step.actions)) for step in steps[:SHOWN]])
    if len(steps) > SHOWN:
        page.line(f"and {plural(len(steps) - SHOWN, 'step')} more: --output json", "dim")
    gates = [step for step in steps if step.gate]
    if gates or document.needs_approval:
        page.line()
        page.line("A person must agree", "bold")
        for reason in document.needs_approval:
            page.line(f"it {reason}", "warning")
        for step in gates[:SHOWN]:
            page.line(f"{step.id}: {step.gate}", "warning")
    page.line()
    page.line(f"next: evac apply {saved_as} ESTATE --execute --reason WHY", "dim")
    return page.text()
