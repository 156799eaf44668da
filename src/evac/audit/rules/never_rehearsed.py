"""EV125: a loss that was never rehearsed, or not since the estate changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.model.estate import Rehearsal

YEAR: Final = timedelta(days=365)
_KINDS: Final = ("site", "group", "hall")


def check(context: Context) -> Iterator[Finding]:
    """Warning for a site; one note each for groups and halls. Racks and feeds are exempt."""
    losses = context.impacts.losses
    latest: dict[str, Rehearsal] = {}
    for item in context.estate.rehearsals:
        if item.domain not in latest or item.done > latest[item.domain].done:
            latest[item.domain] = item
    for kind in _KINDS:
        states = [
            (n, words)
            for n in losses.of_kind(kind).tolist()
            if (words := _state(context, latest.get(losses.ids[n])))
        ]
        if kind == "site":
            yield from (_site(context, n, words) for n, words in states if _runs_something(context, n))
        elif states:
            yield _kind(context, kind, [n for n, _ in states])


def _runs_something(context: Context, number: int) -> bool:
    site = context.impacts.top.site_index[context.impacts.losses.ids[number]]
    return context.estate.sites[site].role == "full"


def _state(context: Context, done: Rehearsal | None) -> str:
    """What is wrong with the last rehearsal; empty if nothing is."""
    changed = context.estate.changed
    if done is None:
        return "was never rehearsed"
    if done.estate_digest is not None and context.digest is not None:
        if done.estate_digest != context.digest:
            return f"was last rehearsed on {done.done}, with a different estate"
    elif changed is not None and done.done < changed:
        return f"was last rehearsed on {done.done}, before the estate changed on {changed}"
    if context.as_of is not None and done.done < context.as_of - YEAR:
        return f"was last rehearsed on {done.done}, more than a year ago"
    return ""


def _site(context: Context, number: int, words: str) -> Finding:
    name = context.impacts.losses.ids[number]
    return RULE.finding(
        context,
        "warning",
        name,
        f"the loss of {name} {words}",
        f"Rehearse the loss of {name}: plan it with evac plan --lose, walk through the plan, "
        "then do it for real at a quiet time.",
        losses=(number,),
        paths=(f"rehearsals/{name}", "rehearsals", f"sites/{name}"),
    )


def _kind(context: Context, kind: str, numbers: list[int]) -> Finding:
    names = context.names(numbers)
    return RULE.finding(
        context,
        "note",
        f"every {kind}",
        f"{counted(len(names), kind)} not rehearsed since the last change: {listed(names)}",
        "Rehearse at least one of each kind; simulations count.",
        losses=numbers,
        paths=("rehearsals", ""),
    )


RULE = Rule(
    "never-rehearsed",
    "EV125",
    "A loss was never rehearsed",
    check,
    per_loss=False,
)
