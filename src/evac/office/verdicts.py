"""The verdict of a plan that is ready, in place of the estimate of the audit: what is shown of a loss is the
same wherever it is read. Pure.

The audit judges thousands of losses fast, each by itself. Where the plan library holds a plan of the estate
as it is now, which the checker accepted, what that plan brings back is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evac.model.plan import Plan
from evac.office.facts import EstateFacts, LossFacts
from evac.views.words import duration, listed, people, plural

_GONE = frozenset({"shed", "unplaced", "unknown"})


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """What one plan comes to. Names are those that matter most first."""

    plan: str
    """Its digest."""
    affected: int
    down: int
    """Services whose base is missing for a while, or for good."""
    restored: int
    degraded: int
    """They serve, with less than all, until the horizon."""
    late: int
    """Later than their `rto`."""
    unplaced: tuple[str, ...]
    shed: tuple[str, ...]
    unknown: tuple[str, ...]
    people_gone: int
    """Users of the largest service that does not come back."""
    worst_ms: int
    stores_lost: int
    stores_gone: int
    data_loss_ms: int | None
    """Most data lost by a store; None where it is not known."""

    @property
    def verdict(self) -> str:
        """As of a loss in the audit."""
        if self.unplaced or self.stores_gone:
            return "loss"
        if self.unknown:
            return "unknown"
        return "degraded" if self.down or self.shed or self.degraded else "ok"

    @property
    def words(self) -> str:
        """`6 services down, 5 restored, the last after 2 min; not coming back: mail (8 million people)`."""
        if not self.affected:
            return "no service is affected"
        parts = [f"{plural(self.down, 'service')} down"]
        if self.restored:
            last = f", the last after {duration(self.worst_ms)}" if self.worst_ms else ""
            parts[0] += f", {plural(self.restored, 'service')} restored{last}"
        if self.unplaced:
            who = f" ({people(self.people_gone)} people)" if self.people_gone else ""
            parts.append(f"not coming back: {listed(self.unplaced)}{who}")
        if self.shed:
            parts.append(f"shed: {listed(self.shed)}")
        if self.unknown:
            parts.append(f"cannot be judged: {listed(self.unknown)}")
        if self.degraded:
            parts.append(f"{plural(self.degraded, 'service')} restored in part")
        if self.stores_gone:
            parts.append(f"all data of {plural(self.stores_gone, 'store')} is lost")
        return "; ".join(parts)


def verdict_of(digest: str, plan: Plan) -> PlanVerdict:
    outcomes = [one for one in plan.outcomes if one.state != "running"]
    ordered = sorted(outcomes, key=lambda one: (one.tier, -one.people, one.service))
    back = [one for one in ordered if one.state not in _GONE]
    down = [one for one in ordered if one.goes_down or one.state in _GONE]
    losses = [one.loss_ms for one in plan.stores if one.primary_ms is not None]
    return PlanVerdict(
        digest,
        len(outcomes),
        len(down),
        sum(1 for one in back if one.goes_down),
        sum(1 for one in back if one.state == "degraded"),
        sum(1 for one in ordered if one.meets_rto is False),
        tuple(one.service for one in ordered if one.state == "unplaced"),
        tuple(one.service for one in ordered if one.state == "shed"),
        tuple(one.service for one in ordered if one.state == "unknown"),
        max((one.people for one in ordered if one.state == "unplaced"), default=0),
        max((one.recovery_ms or 0 for one in back if one.goes_down), default=0),
        len(plan.stores),
        sum(1 for one in plan.stores if one.primary_ms is None),
        None if None in losses else max((one for one in losses if one is not None), default=0),
    )


def loss_by(loss: LossFacts, plan: PlanVerdict) -> LossFacts:
    """The loss as the plan judges it."""
    return replace(
        loss,
        verdict=plan.verdict,
        down=plan.down,
        recovers=plan.restored,
        degraded=plan.degraded,
        never_back=len(plan.unplaced),
        unknown=len(plan.unknown),
        not_proved=0,
        late=plan.late,
        worst_recovery_ms=plan.worst_ms,
        data_loss_ms=plan.data_loss_ms,
        stores_lost=plan.stores_lost,
        stores_gone=plan.stores_gone,
        sheds=bool(plan.shed),
        text=f"{loss.domain}: {plan.words}",
        what=plan.words,
        because="by the plan that is ready",
        plan=plan.plan,
    )


def judged(facts: EstateFacts, plans: Mapping[str, PlanVerdict]) -> EstateFacts:
    """The facts with the verdicts of plans. plans: domain -> that of its plan, of the estate as it is now."""
    if not plans:
        return facts
    losses = tuple(loss_by(one, plans[one.domain]) if one.domain in plans else one for one in facts.losses)
    domains = tuple(
        replace(one, verdict=plans[one.id].verdict) if one.id in plans else one for one in facts.domains
    )
    return replace(facts, losses=losses, domains=domains, plans=tuple(sorted(p.plan for p in plans.values())))
