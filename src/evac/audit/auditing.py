"""The audit: applies every rule to every loss; one report with a row for each loss and a headline in
words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from evac.audit.context import Context, counted, listed, why_lost
from evac.audit.findings import Finding, merged
from evac.audit.impacts.all_losses import (
    DEGRADED,
    FATES,
    LOST,
    NOT_PROVED,
    PLANNED,
    RECOVERS,
    SHED,
    UNAFFECTED,
    UNKNOWN,
    Impacts,
    Method,
    impacts,
)
from evac.audit.impacts.crowding import Crowding
from evac.audit.impacts.dependencies import pairs_of
from evac.audit.impacts.losses import LossKind, losses, together
from evac.audit.impacts.losses import pairs as losses_of_pairs
from evac.audit.impacts.planned import as_planned, plain_where_small
from evac.audit.impacts.stores import NEVER, UNKNOWN_MS
from evac.audit.reasons import Cause, duration
from evac.audit.rules import RULES
from evac.derive.domains import can_be_lost, topology
from evac.derive.domains import domains as every_domain
from evac.derive.pools import without_lost
from evac.model.backup import NOTHING_SEEN, BackupFacts
from evac.model.collector import collector_at_rest
from evac.model.estate import Estate, Lead
from evac.model.fleet import BoolColumn, CodeColumn, IndexColumn
from evac.model.objectives import open_rpo_words
from evac.model.plan import link_or_ingress
from evac.model.reason import fact_words
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """Result of an audit."""

    estate: str
    as_of: date | None
    digest: str | None
    services: tuple[str, ...]
    """Ids by the index that rows use."""
    rows: tuple[LossRow, ...]
    """One for each loss, sites first."""
    findings: tuple[Finding, ...]
    """Most severe first."""
    impacts: Impacts
    """Of single losses, for reports that draw more."""
    now: Estate
    """The estate, with what is lost."""

    @property
    def lead(self) -> Lead:
        """Time before the first step, included in every recovery time."""
        return self.impacts.estate.lead


LOSSES_SHARE: Final = 0.5
"""Share of an audit's time that goes into computing losses; the rest goes into rules."""


@collector_at_rest()
def audit(
    estate: Estate,
    *,
    domains: tuple[str, ...] | None = None,
    pairs: bool = False,
    as_of: date | None = None,
    digest: str | None = None,
    backups: BackupFacts = NOTHING_SEEN,
    at_ms: int | None = None,
    progress: Callable[[float, str], None] = lambda share, words: None,
) -> AuditReport:
    """Compute every loss and apply every rule. Pure and deterministic.

    domains: only these losses, each by itself; None: every fault domain above a server. pairs: also pairs of
    domains above racks. as_of: the date of the audit; None: the estate's own. digest: of the estate, to
    recognize whether a rehearsal used it. backups: observations and proofs of them; at_ms: the moment for
    their ages; None: the day of the audit. What is already lost is in no future loss and provides no
    capacity. progress: is called with the completed share and the next stage in words. Raises UnknownDomain.
    """
    if estate.lost and domains is None:
        whole = topology(estate)
        domains = tuple(one.id for one in every_domain(estate) if can_be_lost(whole, one.id))
    now, estate = estate, without_lost(estate)
    top = topology(estate)
    single = losses(top, domains)
    words = f"trying {counted(len(single), 'loss', 'losses')}"
    progress(0.0, words)
    with plain_where_small(estate, len(single)):
        planned = as_planned(impacts(top, single), now, lambda share: progress(LOSSES_SHARE * share, words))
        context = Context(estate, planned, as_of or estate.as_of, digest, backups, at_ms)
        return _audited(context, now, pairs, progress)


def _audited(
    context: Context, now: Estate, pairs: bool, progress: Callable[[float, str], None]
) -> AuditReport:
    estate, top, today, digest = context.estate, context.impacts.top, context.as_of, context.digest
    found: list[Finding] = []
    for number, rule in enumerate(RULES):
        progress(LOSSES_SHARE + (1 - LOSSES_SHARE) * number / len(RULES), "checking rules")
        found += rule.check(context)
    findings = merged(found)
    rows = loss_rows(context.impacts)
    if pairs:
        paired = Context(estate, as_planned(impacts(top, losses_of_pairs(top)), now), today, digest)
        findings = merged((*findings, *_of_pairs(paired, findings)))
        rows = (*rows, *loss_rows(paired.impacts))
    return AuditReport(
        estate=estate.name,
        as_of=today,
        digest=digest,
        services=tuple(s.id for s in estate.services),
        rows=rows,
        findings=findings,
        impacts=context.impacts,
        now=now,
    )


@collector_at_rest()
def audit_together(report: AuditReport, requested: tuple[str, ...]) -> AuditReport:
    """One row: the effect of losing all these domains at once on the estate of a report. No findings.

    Raises UnknownDomain.
    """
    losses_together = together(report.impacts.top, requested)
    with plain_where_small(report.impacts.estate, len(losses_together)):
        found = as_planned(impacts(report.impacts.top, losses_together), report.now)
    return replace(report, rows=loss_rows(found), findings=(), impacts=found)


def _of_pairs(paired: Context, single: tuple[Finding, ...]) -> list[Finding]:
    """Findings that need two simultaneous losses: warnings at most, because no single loss causes them."""
    known = {(f.rule, f.subject) for f in single}
    every = (finding for rule in RULES if rule.per_loss for finding in rule.check(paired))
    found = [f for f in every if (f.rule, f.subject) not in known]
    return [replace(f, severity="warning") if f.severity == "error" else f for f in found]


Verdict = Literal["ok", "degraded", "loss", "unknown"]
VERDICTS: Final[tuple[Verdict, ...]] = ("loss", "unknown", "degraded", "ok")


@dataclass(frozen=True, slots=True)
class ServiceFate:
    """The effect of a loss on one service."""

    service: str
    fate: str
    recovery_ms: int | None
    """None unless it was down and recovers at a known time."""


@dataclass(frozen=True, slots=True)
class CapacityShort:
    """Shortage after a loss: amount of a resource on some kind of servers (base units)."""

    classes: str
    resource: str
    missing: int
    replicas: int


@dataclass(frozen=True, slots=True, eq=False)
class LossRow:
    """One loss."""

    domain: str
    kind: LossKind
    """Kind of the domain, or `pair`."""
    members: tuple[str, ...]
    """The domains that are lost at once."""
    method: Method
    verdict: Verdict
    down: int
    """Services that are down right after it, or that its plan stops."""
    down_most: int
    """The same, including those whose state is unknown."""
    down_before: int
    """How many of `down` are down before the loss, because servers are off, and not by it."""
    recovered: int
    """Number of services by fate: this field and the next three."""
    degraded: int
    """Those that never were down, and those that come back with reduced capacity until the horizon."""
    lost: int
    unknown: int
    not_proved: int
    """Services for which the estimate proves neither that they stay or come back, nor that they are lost;
    or that a plan does not restore or keep, but a longer search may.
    """
    late: int
    """Services that come back after their RTO."""
    rto_missed: int
    """Services that miss the RTO that they state: those that are late, lost or shed."""
    untimed: int
    """Services that come back at an unknown time because a duration on the way is unknown."""
    rto_unknown: int
    """Services that may or may not come back within the RTO that they state; it is not known."""
    congested: bool
    """Whether a link or an ingress may be too small for the traffic."""
    reduced: int
    """Services that were down and come back with reduced capacity until the horizon."""
    people_down: int
    """Users without a service, counted once for each service with a stated number of users."""
    people_unstated: int
    """Services without a stated number of users, or that may or may not be down."""
    worst_ready_ms: int
    """Longest known recovery."""
    data_loss_ms: int | None
    """Largest data loss of any store; None if unknown."""
    stores_lost: int
    stores_gone: int
    """Stores that do not come back: no usable copy, or none ready before the horizon."""
    stores_open: int
    """Stores that may lose too much data: how much they lose, or may lose, is not stated."""
    to_place: int
    """Replicas that need a place."""
    placed: int
    """Replicas that can be placed."""
    sheds: bool
    """Whether services are shed to free capacity."""
    shed: int
    """Services that a plan sheds permanently, if the loss was planned."""
    short: tuple[CapacityShort, ...]
    """What is missing."""
    service: IndexColumn
    """Columns of the affected services: this field and the next two."""
    fate: CodeColumn
    ready_ms: NDArray[np.integer[Any]]

    def fates(self, names: tuple[str, ...]) -> Iterator[ServiceFate]:
        """The affected services, in order; `names`: ids of all services."""
        columns = (self.service.tolist(), self.fate.tolist(), self.ready_ms.tolist())
        for service, fate, ready in zip(*columns, strict=True):
            known = fate in (RECOVERS, DEGRADED) and 0 < ready < NEVER
            yield ServiceFate(names[service], FATES[fate], ready if known else None)


def loss_rows(impacts: Impacts) -> tuple[LossRow, ...]:
    """A row for every loss, in the order of the losses."""
    return tuple(_rows(impacts))


@dataclass(frozen=True, slots=True, eq=False)
class _Touched:
    """Effects of losses on affected services: one entry for each pair, sorted by loss."""

    loss: NDArray[np.intp]
    service: NDArray[np.intp]
    fate: CodeColumn
    ready: NDArray[np.integer[Any]]
    vague: BoolColumn


def _touched(impacts: Impacts) -> _Touched:
    place = np.flatnonzero(impacts.fate != UNAFFECTED)
    loss, service = np.divmod(place, max(1, impacts.fate.shape[1]))
    return _Touched(
        loss,
        service,
        impacts.fate.reshape(-1)[place],
        impacts.ready_ms[loss, service],
        impacts.untimed[loss, service],
    )


def _rows(impacts: Impacts) -> Iterator[LossRow]:
    losses, count = impacts.losses, len(impacts.losses)
    found = _touched(impacts)
    number, fate, ready = found.loss, found.fate, found.ready
    reduced = (fate == DEGRADED) & impacts.away[number, found.service]
    back = (fate == RECOVERS) | reduced
    counts = _per_loss(count, number * len(FATES) + fate, len(FATES)).T.tolist()
    rto = impacts.rto_at(number, found.service)
    late = back & (ready < NEVER) & (ready > rto)
    missed = _per_loss(count, number[late | (np.isin(fate, (LOST, SHED)) & (rto < NEVER))]).tolist()
    vague = found.vague | _may_be_crowded(impacts, found)
    in_doubt = (back | (fate == DEGRADED)) & vague & ~late | (fate == NOT_PROVED)
    rto_unknown = _per_loss(count, number[in_doubt & (rto < NEVER)]).tolist()
    late = _per_loss(count, number[late]).tolist()
    untimed = _per_loss(count, number[back & found.vague]).tolist()
    unsure = _per_loss(count, number[(fate == UNKNOWN) & ~impacts.away[number, found.service]]).tolist()
    less_than_all = _per_loss(count, number[reduced]).tolist()
    worst = np.zeros(count, np.int64)
    timed = back & ~found.vague
    np.maximum.at(worst, number[timed], ready[timed])
    down, touched, unstated = _down(impacts)
    before = (impacts.down & ~impacts.caused).sum(axis=1).tolist()
    stores = _stores(impacts)
    edges = np.searchsorted(number, np.arange(count + 1)).tolist()
    named = found.service.astype(np.int32)
    ready = np.where(found.vague, 0, ready)
    less = [degraded + shed for degraded, shed in zip(counts[DEGRADED], counts[SHED], strict=True)]
    doubt = list(map(sum, zip(counts[UNKNOWN], counts[NOT_PROVED], (one[3] for one in stores), strict=True)))
    for n in range(count):
        part = slice(edges[n], edges[n + 1])
        data_loss, stores_lost, stores_gone, stores_open = stores[n]
        short = impacts.capacity.short.get(n)
        yield LossRow(
            domain=losses.ids[n],
            kind=losses.kinds[n],
            members=losses.members[n],
            method=impacts.methods[n],
            verdict=_verdict(counts[LOST][n], stores_gone, doubt[n], down[n], less[n], impacts.crowding, n),
            down=down[n],
            down_most=down[n] + unsure[n],
            down_before=before[n],
            recovered=counts[RECOVERS][n],
            degraded=counts[DEGRADED][n],
            lost=counts[LOST][n],
            unknown=counts[UNKNOWN][n],
            not_proved=counts[NOT_PROVED][n],
            late=late[n],
            rto_missed=missed[n],
            untimed=untimed[n],
            rto_unknown=rto_unknown[n],
            congested=bool(impacts.crowding.at(n)),
            reduced=less_than_all[n],
            people_down=touched[n],
            people_unstated=unstated[n] + unsure[n],
            worst_ready_ms=int(worst[n]),
            data_loss_ms=data_loss,
            stores_lost=stores_lost,
            stores_gone=stores_gone,
            stores_open=stores_open,
            to_place=int(impacts.capacity.to_place[n]),
            placed=int(impacts.capacity.placed[n]),
            sheds=counts[SHED][n] > 0 or (short is not None and short.sheds),
            shed=counts[SHED][n],
            short=()
            if short is None
            else tuple(CapacityShort(s.classes, s.resource, s.missing, s.replicas) for s in short.shorts),
            service=named[part],
            fate=fate[part],
            ready_ms=ready[part],
        )


def _may_be_crowded(impacts: Impacts, found: _Touched) -> BoolColumn:
    """Of each entry, whether the traffic of the service may be too much for a link or ingress."""
    row_of = {service.id: row for row, service in enumerate(impacts.estate.services)}
    may = np.zeros(len(found.loss), np.bool_)
    for number in np.unique(found.loss).tolist():
        if impacts.crowding.at(number):
            part = slice(*np.searchsorted(found.loss, (number, number + 1)).tolist())
            may[part] = True
            if impacts.crowding.is_added(number):
                through = {
                    row_of[name] for one in impacts.crowding.of(number).possible for name in one.services
                }
                may[part] = np.isin(found.service[part], sorted(through))
    return may


def _per_loss(losses: int, keys: NDArray[np.integer[Any]], width: int = 1) -> NDArray[np.int64]:
    """Count of each loss; with a width, (L, width) by a second key."""
    found = np.bincount(keys, minlength=losses * width).astype(np.int64)
    return found.reshape(losses, width) if width > 1 else found


def _down(impacts: Impacts) -> tuple[list[int], list[int], list[int]]:
    """Services down in each loss, the users affected, and the number of services without a stated number of
    users.
    """
    pairs, count, services = pairs_of(impacts.away), len(impacts.losses), impacts.estate.services
    people = np.array([s.people or 0 for s in services], np.float64)
    silent = np.array([s.people is None and not s.external for s in services], np.bool_)
    down = np.bincount(pairs.loss, minlength=count)
    touched = np.bincount(pairs.loss, people[pairs.service], count)
    unstated = np.bincount(pairs.loss[silent[pairs.service]], minlength=count)
    return down.tolist(), touched.astype(np.int64).tolist(), unstated.tolist()


def _verdict(
    lost: int, stores_gone: int, open_ones: int, down: int, degraded: int, crowding: Crowding, number: int
) -> Verdict:
    """Most severe outcome: loss, then unknown, then degraded; the unknown or unproved never counts as fine,
    and nor does traffic that may be too much for a link or ingress: what a plan may still avoid is unknown.
    """
    if lost or stores_gone:
        return "loss"
    if open_ones:
        return "unknown"
    if down or degraded or crowding.is_certain(number):
        return "degraded"
    return "unknown" if crowding.at(number) else "ok"


def _stores(impacts: Impacts) -> list[tuple[int | None, int, int, int]]:
    """(largest data loss, stores lost, stores that do not come back, stores that may lose too much data) of
    each loss; a store does not come back without a usable copy, or if none is ready before the horizon,
    unless it is rebuilt.
    """
    found: list[list[int]] = [[0, 0, 0, 0, 0] for _ in range(len(impacts.losses))]
    hits, horizon = impacts.stores, impacts.estate.horizon_ms
    for store, number, which in zip(
        hits.store.tolist(), hits.loss.tolist(), hits.outcome.tolist(), strict=True
    ):
        outcome = hits.outcomes[which]
        if not outcome.lost:
            continue
        row = found[number]
        row[1] += not outcome.keeps_primary
        if outcome.in_doubt and impacts.estate.stores[store].rebuilt_from is None:
            row[3] += 1
            row[4] += 1
            continue
        if outcome.loss_ms == NEVER or outcome.ready_ms >= horizon:
            row[2] += impacts.families.rebuilt_ms(impacts.estate.stores[store], number) >= horizon
            continue
        row[4] += outcome.rpo_is_open
        if outcome.loss_ms == UNKNOWN_MS:
            row[3] += 1
        else:
            row[0] = max(row[0], outcome.loss_ms)
    return [(None if unknown else worst, lost, gone, more) for worst, lost, gone, unknown, more in found]


@dataclass(frozen=True, slots=True)
class Headline:
    """One loss in one sentence; because: the most common causes, and how many services each blocks."""

    domain: str
    verdict: str
    what: str
    """The effect of the loss, without its name and causes."""
    text: str
    because: tuple[tuple[Cause, int], ...] = ()


def headline(report: AuditReport, row: LossRow) -> Headline:
    """The sentence for one row: `pangyo: 412 services down, 37 never come back, because ...`."""
    because = causes(report, row) if row.lost else ()
    parts = [_first(row)]
    if row.lost:
        parts.append(f"{row.lost:,} never {'comes' if row.lost == 1 else 'come'} back")
    if row.recovered + row.reduced > row.untimed:
        parts.append(f"{_who_is_back(row)} back within {duration(row.worst_ready_ms)}")
    if row.untimed:
        parts.append(f"{row.untimed:,} {'comes' if row.untimed == 1 else 'come'} back at an unknown time")
    if row.reduced:
        parts.append(f"{row.reduced:,} of them degraded until the horizon")
    if row.late:
        parts.append(f"{row.late:,} later than promised")
    if row.shed:
        parts.append(f"{row.shed:,} shed to free capacity")
    if row.unknown:
        facts = listed([fact_words(path) for path in _facts(report, row)], 3)
        parts.append(f"{row.unknown:,} cannot be judged" + (f" ({facts})" if facts else ""))
    if row.not_proved:
        parts.append(_doubt(row))
    if row.stores_open:
        parts.append(open_rpo_words(row.stores_open))
    if not (row.down or row.degraded or row.shed or row.unknown or row.not_proved):
        parts += _crowded(report, row)
    what = ", ".join(parts)
    text = f"{row.domain}: {what}" + (_why(row, *because[0]) if because else "")
    return Headline(row.domain, row.verdict, what, text, because)


def _why(row: LossRow, cause: Cause, count: int) -> str:
    """The most common reason among services that never come back, and how many have it."""
    if count >= row.lost:
        return f", because {cause.words}"
    return f"; of the {row.lost:,} that never come back, {count:,} because {cause.words}"


def _who_is_back(row: LossRow) -> str:
    """Services with known times: all that are down, or all others, only if none of them is in doubt."""
    count = row.recovered + row.reduced - row.untimed
    if count < row.down - row.lost or row.shed or row.not_proved:
        return f"{count:,}"
    return "the others are" if row.lost else "all"


def _doubt(row: LossRow) -> str:
    """What is not proved, and how to find out."""
    if row.method == PLANNED:
        return f"{row.not_proved:,} not proved ({proof_command(row)} searches longer)"
    return f"{row.not_proved:,} not proved ({proof_command(row)} shows)"


def proof_command(row: LossRow) -> str:
    """The command that proves a verdict that the estimate leaves open."""
    return f"evac plan ESTATE {' '.join(f'--lose {member}' for member in row.members)}"


def _facts(report: AuditReport, row: LossRow) -> tuple[str, ...]:
    """Paths of the known amounts without which a loss cannot be judged."""
    number = report.impacts.losses.index.get(row.domain)
    return () if number is None else report.impacts.facts.get(number, ())


def _crowded(report: AuditReport, row: LossRow) -> Iterator[str]:
    """Links and ingress that may be too small after a loss that stops nothing."""
    number = report.impacts.losses.index.get(row.domain)
    found = () if number is None else report.impacts.crowding.at(number)
    if names := list(dict.fromkeys(link_or_ingress(at) for at, _ in found)):
        yield f"the traffic may be too much for {listed(names, 3)}"


def _first(row: LossRow) -> str:
    if row.down:
        before = f" ({row.down_before:,} of them before the loss)" if row.down_before else ""
        return f"{counted(row.down, 'service')} down{before}"
    return f"{counted(row.degraded, 'service')} with fewer replicas" if row.degraded else "nothing is down"


def causes(report: AuditReport, row: LossRow, most: int = 3) -> tuple[tuple[Cause, int], ...]:
    """Why services never come back: the last cause in each one's chain, most common first."""
    impacts = report.impacts
    number = impacts.losses.index.get(row.domain)
    if number is None:
        return ()
    context = Context(impacts.estate, impacts, report.as_of, report.digest)
    counts: Counter[Cause] = Counter()
    for service in np.flatnonzero(impacts.fate[number] == LOST).tolist():
        cause = why_lost(context, service, number).cause
        if cause is not None:
            counts[cause.general] += 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0].words))[:most])


def summary(report: AuditReport) -> tuple[Headline, ...]:
    """Headlines of the losses that matter: every site, then other losses with an effect."""
    shown = [row for row in report.rows if row.kind == "site" or row.verdict == "loss"]
    return tuple(headline(report, row) for row in shown)


def quiet(report: AuditReport) -> str:
    """One line about the losses that `summary` omits."""
    rest = Counter(row.verdict for row in report.rows if row.kind != "site" and row.verdict != "loss")
    return listed([f"{count:,} {verdict}" for verdict, count in sorted(rest.items())], 4)
