"""What every loss does, as plain values for templates: which sites can be lost, and lists of losses. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from evac.office.facts import EstateFacts, LossFacts
from evac.office.values import ReadyPlan, Situation
from evac.views.words import duration, listed, number, people, plural

KINDS: Final = (
    ("site", "site", "sites"),
    ("group", "shared fate", "shared fates"),
    ("provider", "provider", "providers"),
    ("hall", "hall", "halls"),
    ("feed", "power feed", "power feeds"),
    ("rack", "rack", "racks"),
)
VERDICT_CLASS: Final = {"loss": "error", "unknown": "unknown", "degraded": "warning", "ok": "ok"}
VERDICT_WORDS: Final = {
    "loss": "services are lost",
    "unknown": "cannot be judged",
    "degraded": "no service stays down",
    "ok": "nothing stops",
}
RANK: Final = {"loss": 0, "unknown": 1, "degraded": 2, "ok": 3}
LOSSES_MOST: Final = 12


def can_lose(now: Situation, facts: EstateFacts) -> dict[str, Any] | None:
    """Return a sentence about which sites can be lost, what happens otherwise, and whether all of them
    can be lost. None while something is lost, or the store does not say whether anything is.
    """
    losses = sorted((one for one in facts.losses if one.kind == "site"), key=_gravity)
    if not losses or now.lost_sites or not now.quorum.answers or now.quorum.problem:
        return None
    good = [one for one in losses if one.verdict in ("ok", "degraded")]
    yes = [one.domain for one in good if _in_time(one)]
    late = [one.domain for one in good if one.late]
    untimed = [one.domain for one in good if not one.late and one.untimed]
    crowded = [one.domain for one in good if one.congested]
    in_doubt = [o.domain for o in good if o.rto_unknown and not (o.late or o.untimed or o.congested)]
    shedding = [one.domain for one in good if one.sheds]
    bad = [one for one in losses if one.verdict == "loss"]
    doubt = [one.domain for one in losses if one.verdict == "unknown"]
    no = [one.domain for one in bad]
    if len(yes) == len(losses):
        words = "You can lose any one site." if len(yes) > 1 else f"You can lose {yes[0]}."
    elif yes:
        words = f"You can lose {_either(yes)}" + (f", but not {_either(no)}." if no else ".")
    else:
        words = "You can't lose any site." if no else ""
    today = _today(facts)
    if yes and today:
        words += " Even today, some traffic may not get through."
    more = f"Some services are back late after the loss of {_either(late)}." if late else ""
    if untimed:
        more += f" It is unknown when some services are back after the loss of {_either(untimed)}."
    if crowded:
        more += f" The traffic may be too much for a link or an ingress after the loss of {_either(crowded)}."
    if in_doubt:
        more += f" It is unknown whether some services meet their RTO after the loss of {_either(in_doubt)}."
    if shedding:
        more += f" Some services are shed after the loss of {_either(shedding)}."
    if bad:
        more = f"If {bad[0].domain} is lost: {bad[0].what or bad[0].because}. {more.strip()}"
    if doubt:
        more = f"{more} Unknown for {listed(doubt)}.".strip()
    home = "" if facts.stores_away or facts.services_away else " All primaries are at their home sites."
    is_fine = len(yes) == len(losses) and not today
    return {"words": words, "more": f"{today}{more.strip()}{home}".strip(), "all": is_fine}


def _today(facts: EstateFacts) -> str:
    """What is too small without any loss, or may be; empty if nothing is."""
    found = ""
    if facts.crowded_today:
        found += f"Today's traffic may be too much for {listed(facts.crowded_today, 3)}. "
    if facts.unclear_today:
        found += f"It is unknown whether {listed(facts.unclear_today, 3)} can carry today's traffic. "
    return found


def _in_time(loss: LossFacts) -> bool:
    """Whether every service that a loss takes down is known to be back in time."""
    return not (loss.late or loss.sheds or _may_be_late(loss))


def _may_be_late(loss: LossFacts) -> bool:
    return bool(loss.untimed or loss.rto_unknown or loss.congested)


def _either(names: Sequence[str]) -> str:
    """`east`, `east or west`, `east, north or west`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def tally(facts: EstateFacts) -> dict[str, int]:
    """How many losses end in each way."""
    good = [one for one in facts.losses if one.verdict in ("ok", "degraded")]
    return {
        "all": len(facts.losses),
        "yes": sum(1 for one in good if _in_time(one)),
        "part": sum(1 for one in good if one.sheds and not one.late and not _is_open(one)),
        "late": sum(1 for one in good if one.late),
        "unknown": sum(1 for one in facts.losses if _is_open(one)),
        "no": sum(1 for one in facts.losses if one.verdict == "loss"),
        "planned": sum(1 for one in facts.losses if one.plan),
    }


def _is_open(loss: LossFacts) -> bool:
    """Whether it is unknown if everything is back in time: what happens, or only when."""
    return loss.verdict == "unknown" or (loss.verdict == "degraded" and not loss.late and _may_be_late(loss))


def site_losses(now: Situation, facts: EstateFacts) -> Iterator[dict[str, Any]]:
    ready = {plan.scenario: plan for plan in now.drawer}
    days = {domain.id: domain.drilled for domain in facts.domains}
    for loss in sorted((one for one in facts.losses if one.kind == "site"), key=_gravity):
        yield loss_row(loss) | {
            "plan": _plan_words(ready.get(loss.domain)),
            "plan_ms": _plan_ms(ready.get(loss.domain)),
            "drilled": days.get(loss.domain),
        }


def _plan_words(plan: ReadyPlan | None) -> str:
    if plan is None:
        return "none"
    if plan.problem:
        return f"none: {plan.problem}"
    if plan.current is False:
        return "out of date" if plan.estate else "not assessed yet"
    return "ready"


def _plan_ms(plan: ReadyPlan | None) -> int:
    return plan.at_ms if plan is not None and plan.plan else 0


def _exceptions(loss: LossFacts) -> str:
    """What is not restored fully and in time, for a loss that takes no service down for good."""
    if loss.late:
        return "restored too late"
    if loss.untimed:
        return "restored at an unknown time"
    if loss.congested:
        return "traffic may not get through"
    if loss.rto_unknown:
        return "may miss an RTO"
    if loss.sheds:
        return "lower tiers are shed"
    return "restored in part" if loss.degraded else ""


def verdict_words(loss: LossFacts) -> str:
    if loss.verdict == "degraded":
        return _exceptions(loss) or "everything comes back"
    return VERDICT_WORDS[loss.verdict]


def loss_row(loss: LossFacts) -> dict[str, Any]:
    """One loss in words."""
    return {
        "domain": loss.domain,
        "verdict": verdict_words(loss),
        "state": VERDICT_CLASS[loss.verdict],
        "text": loss.what or f"{plural(loss.down, 'service')} down",
        "because": "" if loss.because == verdict_words(loss) else loss.because,
        "people": people(loss.people_down, loss.people_unstated),
        "plan_digest": loss.plan,
        "look": "bad"
        if loss.verdict == "loss"
        else ""
        if loss.verdict == "unknown" or not _in_time(loss)
        else "good",
        "short": _short(loss),
        "data": _data(loss),
    }


def _short(loss: LossFacts) -> str:
    if loss.verdict == "loss":
        return "No"
    if _is_open(loss):
        return "Not known"
    return "Late" if loss.late else "In part" if loss.sheds else "Yes"


def _data(loss: LossFacts) -> str:
    """The most data that is lost for good."""
    if loss.stores_gone:
        return f"{plural(loss.stores_gone, 'store')} not restored"
    if loss.data_loss_ms is None:
        return "not known"
    return f"up to {duration(loss.data_loss_ms)}" if loss.data_loss_ms else "none"


def _gravity(loss: LossFacts) -> tuple[int, int, int, int, str]:
    return (RANK[loss.verdict], -loss.never_back, -loss.people_down, -loss.people_unstated, loss.domain)


def kinds(facts: EstateFacts) -> Iterator[dict[str, Any]]:
    """How losses of each kind end, with a link to all of them."""
    for kind, one, many in KINDS:
        counts = Counter(loss.verdict for loss in facts.losses if loss.kind == kind)
        if counts:
            told = [f"{VERDICT_WORDS[v]} in {number(counts[v])}" for v in RANK if counts[v]]
            gravest = next(v for v in RANK if counts[v])
            yield {
                "kind": kind,
                "name": plural(counts.total(), one, many),
                "words": "; ".join(told),
                "state": VERDICT_CLASS[gravest],
            }


def gravest(facts: EstateFacts) -> list[dict[str, Any]]:
    """The most severe losses below a site that take something down for good or cannot be judged."""
    found = [x for x in facts.losses if x.kind != "site" and x.verdict in ("loss", "unknown")]
    return [loss_row(loss) for loss in sorted(found, key=_gravity)[:LOSSES_MOST]]


def losses_context(facts: EstateFacts, kind: str, begin: int, most: int) -> dict[str, Any]:
    """One page of the losses of one kind, most severe first."""
    found = sorted((loss for loss in facts.losses if loss.kind == kind), key=_gravity)
    name = next(many for one, _, many in KINDS if one == kind)
    return {
        "kind": kind,
        "name": name,
        "rows": [loss_row(loss) for loss in found[begin : begin + most]],
        "begin": begin,
        "end": min(len(found), begin + most),
        "total": len(found),
        "before": max(0, begin - most) if begin else None,
        "after": begin + most if begin + most < len(found) else None,
    }
