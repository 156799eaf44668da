"""Make a plan from a user's question, or repair the plan of an open run whose servers do not come up.
Pure.

Users write restore points of lost stores as `orders=2026-11-25T02:55:00Z`. The name of a recovery group means
all of its stores, which return to the same moment or to none.
"""

from __future__ import annotations

import asyncio
import copyreg
import io
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from evac.app.planner.kernels import Report, kernels, search_s
from evac.app.side_process import Apart
from evac.derive.affected import stores_lost
from evac.derive.domains import Topology, loss, lost_around, resolve, resolve_each, stays_lost, topology
from evac.derive.limits import BUDGETED, stated_budgets
from evac.derive.planning_instance import derive
from evac.engine.boots.feed_watch import Mend, Trouble
from evac.engine.plans.library import get_plan
from evac.estate.codecs import plan as plan_codec
from evac.estate.format import quantities
from evac.estate.format.quantities import QuantityError, parse_moment
from evac.model.collector import collector_at_rest
from evac.model.digest import estate_digest
from evac.model.errors import EvacError, InvalidInput, PlanError, StalePlan, UnknownDomain
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.scenario import Policy, Scenario, ScenarioKind
from evac.planning.repair import repair
from evac.steps.registry import kind_of
from evac.store.port import Store

if TYPE_CHECKING:
    from evac.planning.plan import Beside

NICENESS: Final = 5


def mended(estate: Estate, data: bytes, trouble: Trouble) -> bytes | None:
    """The repaired plan for the current estate; None if no replica can be placed elsewhere. Raises
    InvalidInput if it is not a plan, UnknownDomain and StalePlan if the estate changed and lacks what the
    plan is about.
    """
    plan = plan_codec.decode(data, own=True)
    instance = derive(estate, plan.scenario, plan.policy, plan.tick_ms)
    _check_names(plan, instance)
    found = repair(instance, plan, trouble.failed, trouble.begun)
    if not found.moved:
        return None
    return plan_codec.encode(replace(found.plan, estate_digest=estate_digest(estate)))


def _check_names(plan: Plan, instance: Instance) -> None:
    """Raise StalePlan if names are missing: a run keeps its plan when the estate changes."""
    services, pools = set(instance.services.id), {pool.id for pool in instance.pools}
    for step in plan.steps:
        kind = kind_of(step.kind)
        if (kind.replicas > 0 or kind.frees_capacity) and step.target not in services:
            raise _stale(f"service {step.target}")
        if kind.replicas > 0 and step.pool not in pools:
            raise _stale(f"pool {step.pool}")


def _stale(what: str) -> StalePlan:
    return StalePlan(
        "plan-stale",
        f"the estate has changed and no longer contains {what}",
        "the run continues with its plan",
    )


class Mender:
    """Repairs plans in a separate process, because on a large site that takes a core for many seconds, in
    which a leader would miss heartbeats. Started on first use.
    """

    def __init__(self) -> None:
        self._apart = Apart(NICENESS)

    async def mend(self, estate: Estate, data: bytes, trouble: Trouble) -> bytes | None:
        """See `mended`. Raises PlanError if the process died."""
        packed = await asyncio.to_thread(_packed, estate)
        try:
            done = await self._apart.ask(_mended_apart, packed, data, trouble)
        except BrokenProcessPool as error:
            raise PlanError(
                "mend-failed", "the process that repairs plans has stopped", "the run continues"
            ) from error
        if isinstance(done, tuple):
            code, message, hint = done
            raise PlanError(code, message, hint)
        return done

    def of_store(self, store: Store, estate: Callable[[], Estate]) -> Mend:
        """Repairs plans in a store. estate: as currently seen."""

        async def mend(digest: str, trouble: Trouble) -> bytes | None:
            return await self.mend(estate(), await get_plan(store, digest), trouble)

        return mend

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._apart.close()


def _mended_apart(packed: bytes, data: bytes, trouble: Trouble) -> bytes | tuple[str, str, str] | None:
    try:
        return mended(pickle.loads(packed), data, trouble)
    except EvacError as error:
        return error.code, error.message, error.hint


def _packed(estate: Estate) -> bytes:
    """An estate ready for a process that this one started; read-only mappings are unwrapped, and locations of
    facts in files are dropped.
    """
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | {MappingProxyType: _thawed}
    pickler.dump(replace(estate, places=MappingProxyType({})))
    return stream.getvalue()


def _thawed(mapping: MappingProxyType[Any, Any]) -> tuple[Callable[..., Any], tuple[dict[Any, Any]]]:
    return _frozen, (dict(mapping),)


def _frozen(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


Result = TypeVar("Result")
LARGE: Final = 100
"""From this many services on, the bound of a plan is proven on a second thread."""

GENERATION_US: Final = 1_500
GENERATION_US_PER_1000_SERVERS: Final = 450
"""Time of one search generation on the reference machine, measured on the fixed example company from 1,000 to
90,000 servers. A budget is a maximum: the search ends when it finds nothing better.
"""

RESTORE_FACTOR: Final = 5
"""How much longer a generation takes if every replica waits for a boot; measured likewise."""

DEFAULT_BUDGET_MS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Made:
    """A plan with its canonical bytes and their digest."""

    plan: Plan
    data: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Question:
    """The user's question: exactly one of the four lists is not empty. power: `DOMAIN=90%` or `DOMAIN=300kW`,
    the power that a domain has now; on: servers seen on.
    """

    lose: tuple[str, ...] = ()
    evacuate: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()
    failback: tuple[str, ...] = ()
    deadline_ms: int | None = None
    power: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    moments: tuple[str, ...] = ()
    """`STORE=MOMENT` or `GROUP=MOMENT`: what a loss restores to a moment."""


def scenario_of(estate: Estate, question: Question, now_s: int = 0) -> Scenario:
    """The scenario of a question. now_s: current time in seconds since 1970, the reference for moments.
    Raises InvalidInput and UnknownDomain.
    """
    asked: list[tuple[ScenarioKind, tuple[str, ...]]] = [
        ("lose", question.lose),
        ("evacuate", question.evacuate),
        ("restore", question.restore),
        ("failback", question.failback),
    ]
    given = [(kind, domains) for kind, domains in asked if domains]
    if len(given) != 1:
        hint = "use one of --lose DOMAIN, --evacuate SITE, --restore DOMAIN, --failback SITE"
        raise InvalidInput("plan-question", "a plan needs exactly one scenario", hint)
    kind, domains = given[0]
    if question.deadline_ms is not None and kind != "evacuate":
        raise InvalidInput("plan-deadline", "--deadline can only be used with --evacuate", "remove it")
    top = topology(estate)
    found = resolve_each(top, domains)
    if kind != "lose" and any(domain.kind == "provider" for domain in found):
        hint = "plan for its loss: evac plan ESTATE --lose provider:NAME"
        words = "a provider can only be lost: none of your services run there"
        raise InvalidInput("plan-provider", words, hint)
    if kind in ("restore", "failback"):
        _refuse_still_lost(top, kind, domains)
    deadline = question.deadline_ms
    if kind == "evacuate" and deadline is None:
        deadline = estate.horizon_ms
    if question.power and kind != "restore":
        raise InvalidInput("plan-power", "--power can only be used with --restore", "remove it")
    if question.on and kind != "restore":
        raise InvalidInput("plan-seen", "--seen can only be used with --restore", "remove it")
    if question.moments and kind != "lose":
        raise InvalidInput("plan-moment", "--moment can only be used with --lose", "remove it")
    power, on = power_now(top, question.power), tuple(sorted(set(question.on)))
    moments = moments_of(estate, question.moments, now_s)
    asked_s = now_s if moments else 0
    return Scenario(kind, tuple(sorted(set(domains))), deadline, power, on, moments, asked_s)


def _refuse_still_lost(top: Topology, kind: ScenarioKind, domains: tuple[str, ...]) -> None:
    """Raise InvalidInput if a domain that is to return, or a part of it, would still be lost afterwards."""
    lost = top.estate.lost
    left = stays_lost(lost, domains) if kind == "restore" else tuple(x for x in lost if x not in domains)
    around = lost_around(top, sorted({*domains}), left)
    if not around:
        return
    words = "; ".join(f"{domain} is still lost with {', '.join(others)}" for domain, others in around.items())
    outer = {other for others in around.values() for other in others}
    again = " ".join(
        f"--restore {name}" for name in sorted(outer if kind == "failback" else {*outer, *domains})
    )
    first = "first restore that" if kind == "failback" else "restore both"
    hint = f"{first}: evac plan ESTATE {again}; or clear a mark that is wrong: evac site clear DOMAIN"
    raise InvalidInput("plan-still-lost", f"{words}, so a plan cannot count on it", hint)


def power_now(top: Topology, stated: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """(domain, watts) from `DOMAIN=90%` or `DOMAIN=300 kW`, sorted.

    Raises InvalidInput for any other form, with every problem at once, and UnknownDomain.
    """
    budgets = stated_budgets(top)
    found: dict[str, int] = {}
    wrong: list[EvacError] = []
    for text in stated:
        name, _, amount = text.partition("=")
        try:
            if resolve(top, name).kind not in BUDGETED:
                hint = "give a site, a hall, a feed or a rack"
                raise InvalidInput("plan-power", f"{name[:200]} has no power budget", hint)
            if name in found:
                raise InvalidInput("plan-power", f"the power of {name} is given twice", "keep one of the two")
            found[name] = 0
            found[name] = _watts(name, amount.strip(), budgets.get(name))
        except (InvalidInput, UnknownDomain) as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        hint = "write DOMAIN=90% of its budget, or DOMAIN=300kW, once for each"
        raise InvalidInput("plan-power", "; ".join(error.message for error in wrong), hint)
    return tuple(sorted(found.items()))


def _watts(name: str, amount: str, budget: int | None) -> int:
    hint = "write DOMAIN=90% of its budget, or DOMAIN=300kW"
    try:
        if not amount.endswith("%"):
            return quantities.parse(quantities.POWER_HELD, amount)
        share = quantities.parse_permille(amount)
    except quantities.QuantityError as error:
        raise InvalidInput("plan-power", f"{name}={amount[:40]}: {error}", hint) from error
    if budget is None:
        raise InvalidInput("plan-power", f"the budget of {name} is unknown", "give watts: DOMAIN=300kW")
    return budget * share // 1_000


def make_plan(
    estate: Estate,
    scenario: Scenario,
    *,
    budget_ms: int = DEFAULT_BUDGET_MS,
    seed: int = 0,
    waivers: tuple[str, ...] = (),
    sensitivity: bool = False,
    progress: Callable[[float, str], None] = lambda share, words: None,
    report: Report = lambda line: None,
) -> Made:
    """Plan and encode. The budget is converted to an amount of work: same input, same bytes.

    report: receives one line, repeatedly, while kernels are compiled first.
    """
    from evac.planning.plan import plan

    unknown = sorted(set(waivers) - {store.id for store in estate.stores})
    if unknown:
        raise InvalidInput(
            "plan-waiver", f"no such store (--waive): {', '.join(unknown)}", "see stores: in the estate"
        )
    work = work_in(budget_ms, len(estate.fleet))
    if scenario.kind == "restore":
        work //= RESTORE_FACTOR
    policy = Policy(waivers)
    instance = derive(estate, scenario, policy)
    refuse_unlost(estate, scenario, instance)
    with kernels(search_s(instance, work), report), collector_at_rest(), _beside(estate) as beside:
        made = plan(
            estate,
            scenario,
            policy=policy,
            known=(estate_digest(estate), instance),
            work=work,
            seed=seed,
            sensitivity=sensitivity,
            progress=progress,
            beside=beside,
        )
        data = plan_codec.encode(made)
        return Made(made, data, plan_codec.plan_digest(data))


@contextmanager
def _beside(estate: Estate) -> Iterator[Beside | None]:
    """A second thread for the plan of a large estate."""
    if len(estate.services) < LARGE:
        yield None
        return
    with ThreadPoolExecutor(1, "evac-proof") as helper:

        def begin(work: Callable[[], Result], /) -> Callable[[], Result]:
            return helper.submit(work).result

        yield begin


def work_in(budget_ms: int, servers: int) -> int:
    """Search generations that a budget buys for an estate with this many servers."""
    each_us = GENERATION_US + GENERATION_US_PER_1000_SERVERS * servers // 1000
    return max(0, budget_ms * 1000 // each_us)


_CODE = "plan-moment"


def moments_of(estate: Estate, stated: tuple[str, ...], now_s: int) -> tuple[tuple[str, int], ...]:
    """(store, seconds since 1970), sorted. Raises InvalidInput for an unknown store, an invalid or future
    moment, and for a store of a recovery group whose others return to a different moment.
    """
    stores = {store.id for store in estate.stores}
    groups = {group.id: group.stores for group in estate.recovery_groups}
    found: dict[str, int] = {}
    for entry in stated:
        name, _, words = entry.partition("=")
        if name not in stores and name not in groups:
            hint = "see stores: and recovery_groups: in the estate"
            raise InvalidInput(_CODE, f"no such store or recovery group: {name[:200]!r}", hint)
        try:
            moment_s = parse_moment(words.strip()) // 1_000
        except QuantityError as error:
            raise InvalidInput(_CODE, f"{name}: {error}", error.hint) from error
        if moment_s > now_s:
            hint = "check the time zone, or omit the moment to use the newest backup"
            raise InvalidInput(_CODE, f"{name}: {words.strip()} is in the future", hint)
        for store in groups.get(name, (name,)):
            if found.setdefault(store, moment_s) != moment_s:
                raise InvalidInput(_CODE, f"{store} is given two moments", "keep one of the two")
    _refuse_apart(estate, found)
    return tuple(sorted(found.items()))


def _refuse_apart(estate: Estate, found: dict[str, int]) -> None:
    for group in estate.recovery_groups:
        moments = [found[store] for store in group.stores if store in found]
        if not moments:
            continue
        apart_ms = (max(moments) - min(moments)) * 1_000
        if len(moments) < len(group.stores) or apart_ms > group.tolerance_ms:
            words = (
                f"{', '.join(group.stores)} must be restored to the same point in time: they "
                f"form recovery group {group.id}"
            )
            raise InvalidInput("plan-group", words, f"use the group: --moment {group.id}=MOMENT")


def refuse_unlost(estate: Estate, scenario: Scenario, instance: Instance) -> None:
    """Raise InvalidInput if a store to restore keeps or elects a primary, or has no backup left."""
    lost = {store.id: store for store in instance.stores}
    elects = {store.id for store in estate.stores if store.quorum}
    top = topology(estate)
    gone = loss(top, scenario.domains)
    keeps = {
        one.id for one, is_gone in zip(estate.stores, stores_lost(top, gone), strict=True) if not is_gone
    }
    for name, _ in scenario.moments:
        if name not in lost or name in keeps:
            words = f"{name} keeps its primary in the {scenario.title}, so nothing is restored"
            hint = "list every domain that must be lost with it, or omit the moment"
            raise InvalidInput(_CODE, words, hint)
        if name in elects and lost[name].has_majority:
            words = (
                f"the members of {name} keep a majority and elect a primary; a restored "
                "one would be a second primary"
            )
            raise InvalidInput(_CODE, words, "omit the moment, or stop the members and plan their loss")
        if not lost[name].candidates:
            words = f"no backup of {name} is left after the {scenario.title}, or its size or rate is unknown"
            raise InvalidInput(_CODE, words, "see `backups` of the store: at, size, restore")
