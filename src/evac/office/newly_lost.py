"""Verdicts from before a loss: they may rely on what has been lost since. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from evac.model.situation import Effects
from evac.office.facts import EstateFacts, LossFacts
from evac.office.reckoning import WhatIf
from evac.views.words import listed

NAMED: Final = 3


def newly_lost(facts: EstateFacts, seen: Collection[str], effects: Effects | None) -> tuple[str, ...]:
    """What the facts do not know as lost, of what witnesses see as lost and runs have marked so; sorted."""
    marked = {one.domain for one in effects.lost if one.state == "lost"} if effects is not None else set()
    return tuple(sorted({*seen, *marked} - {one.domain for one in facts.lost}))


def unmarked(seen: Collection[str], effects: Effects | None) -> tuple[str, ...]:
    """What the witnesses see lost and nothing has marked yet, so that no answer takes it as lost; sorted."""
    return tuple(sorted({*seen} - ({one.domain for one in effects.lost} if effects is not None else set())))


def without_promises(facts: EstateFacts, newly: tuple[str, ...]) -> EstateFacts:
    """The facts without what further losses may no longer do as they say. newly: from `newly_lost`."""
    if not newly:
        return facts
    domains = tuple(
        one if one.id in newly or one.verdict == "loss" else replace(one, verdict="unknown")
        for one in facts.domains
    )
    losses = tuple(without_promise(one, (one.domain,), newly) for one in facts.losses)
    return replace(facts, losses=losses, domains=domains, newly_lost=newly)


def without_promised(answer: WhatIf, newly: tuple[str, ...]) -> WhatIf:
    """The same for the answer to a question."""
    loss = without_promise(answer.loss, answer.domains, newly)
    return replace(answer, loss=loss, newly_lost=without(newly, answer.domains))


def without(newly: tuple[str, ...], domains: Collection[str]) -> tuple[str, ...]:
    """What of this is not in question anyway."""
    return tuple(one for one in newly if one not in domains)


def without_promise(loss: LossFacts, domains: Collection[str], newly: tuple[str, ...]) -> LossFacts:
    """The same for the loss of some domains: unknown, unless services are lost in any case, or what is newly
    lost is part of the question.
    """
    missing = without(newly, domains)
    if not missing or loss.verdict == "loss":
        return loss
    what = f"judged before the loss of {listed(missing, NAMED)}, so what comes back is unknown"
    return replace(
        loss,
        verdict="unknown",
        what=what,
        text=f"{loss.domain}: {what}",
        because="",
        data_loss_ms=None,
        plan="",
        unknown=max(loss.unknown, loss.down),
        recovers=0,
    )
