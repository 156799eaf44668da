"""Verdicts from before a loss are unknown after it, because they may rely on what was lost. Pure."""

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
    """What witnesses see as lost and nothing has marked yet, so that no answer takes it as lost; sorted."""
    return tuple(sorted({*seen} - ({one.domain for one in effects.lost} if effects is not None else set())))


def facts_in_doubt(facts: EstateFacts, newly: tuple[str, ...]) -> EstateFacts:
    """The facts, with the verdicts of further losses unknown. newly: from `newly_lost`."""
    if not newly:
        return facts
    domains = tuple(
        replace(one, verdict="unknown") if _others(newly, (one.id,)) and one.verdict != "loss" else one
        for one in facts.domains
    )
    losses = tuple(_loss_in_doubt(one, (one.domain,), newly) for one in facts.losses)
    return replace(facts, losses=losses, domains=domains, newly_lost=newly)


def answer_in_doubt(answer: WhatIf, newly: tuple[str, ...]) -> WhatIf:
    """The same for the answer to a question. newly: from `unmarked`."""
    loss = _loss_in_doubt(answer.loss, answer.domains, newly)
    return replace(answer, loss=loss, newly_lost=_others(newly, answer.domains))


def _others(newly: tuple[str, ...], domains: Collection[str]) -> tuple[str, ...]:
    """What of this is no part of the question."""
    return tuple(one for one in newly if one not in domains)


def _loss_in_doubt(loss: LossFacts, domains: Collection[str], newly: tuple[str, ...]) -> LossFacts:
    """The loss of some domains as unknown, unless services are lost in any case, or the question includes all
    that is newly lost.
    """
    missing = _others(newly, domains)
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
