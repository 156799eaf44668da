"""Runs in a planning process: plans of one estate as observed. Arguments are roles of stores, names of
domains and plan bytes.

Work shared by many scenarios is done once: the estate, its digest, its topology, and the instance of a loss,
which is the same for all losses that take the same things. The caller keeps the rows of a loss between states
of the estate: they are computed again only if something they depend on changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from typing import Any, Final, TypeVar

import numpy as np

from evac import __version__
from evac import estate as estates
from evac.app.accepting import refused, why_not
from evac.app.planner.kernels import kernels, search_s
from evac.derive import situation
from evac.derive.basis import (
    Basis,
    RowsSaid,
    basis_of,
    no_rows,
    of_plan,
    only_touched,
    read_by_rows,
    rows_said,
)
from evac.derive.domains import Loss, Topology, can_be_lost, domains, is_lost, lost_in, lost_with, topology
from evac.derive.objectives import rto_of
from evac.derive.planning_instance import derive, limits_in
from evac.derive.pools import without_lost
from evac.derive.rows import RowSet, rows_of
from evac.engine.plans.queue import scenarios_of
from evac.estate.codecs import plan as plan_codec
from evac.model.collector import collector_at_rest
from evac.model.digest import estate_digest, written
from evac.model.errors import EvacError
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.scenario import Policy, lose
from evac.model.units import TICK_MS
from evac.net.internal_errors import internal
from evac.planning.compiled import kernels_are_kept
from evac.verify import Violation
from evac.verify.waiting import check_waiting

KINDS: Final = ("site", "group", "hall", "feed")
_HEAD: Final = frozenset({"name", "lost", "question", "estate_digest", "as_of"})
"""Fields in which a plan document describes its estate and its loss."""
Answer = TypeVar("Answer")
Failure = tuple[str, str, str]
"""Code, message and hint of a failure."""


@dataclass(frozen=True, slots=True)
class Place:
    """Estate, date, and stores whose RPO policy waives."""

    path: str
    as_of: date | None
    waivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """A fault domain above a rack, or a pair of sites, and the users affected by its loss (0 if not
    computed). takes: equal for losses that take the same things.
    """

    lost: tuple[str, ...]
    kind: str
    people: int
    takes: str


@dataclass(frozen=True, slots=True)
class Based:
    """What a plan of a loss would be made from, and the rows of that loss."""

    basis: Basis
    rows: RowsSaid


class _Desk:
    """One estate. `look` updates it to the observed one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._files = estates.load(place.path, place.as_of)
        self._seen: Observation | None = None
        self.estate, self.digest, self.top = self._files, "", topology(self._files)
        self.wrong: tuple[Violation, ...] = ()
        """What the checker finds wrong in the estate as it is now."""
        self._tables, self._tables_key = self.top, ""
        self._rows: tuple[str, RowSet] | None = None
        self._kept: tuple[str, Instance] | None = None
        self._based: dict[str, Based] = {}
        self._places: tuple[str, ...] | None = None

    def look(self, observation: Observation) -> _Desk:
        if self._seen is None or self._seen.facts != observation.facts:
            self.estate = situation.of(self._files, observation).estate
            self.wrong = tuple(check_waiting(self._files, observation, self.estate))
            self.digest, self.top = estate_digest(self.estate), topology(self.estate)
            self._tables = topology(read_by_rows(self.estate))
            limits = repr((__version__, TICK_MS, limits_in(self.top)))
            self._tables_key = estate_digest(self._tables.estate) + limits
            self._seen, self._rows, self._kept, self._places = observation, None, None, None
            self._based.clear()
        return self

    def taken(self, lost: tuple[str, ...]) -> str:
        """Digest of what is lost after a loss. Raises UnknownDomain."""
        if self._places is None:
            stores = self.top.estate.stores
            members = {one.at for store in stores for one in store.members}
            backups = {one.at for store in stores for one in store.backups}
            self._places = tuple(sorted(members | backups))
        return _taken(self.top, self._places, lost_with(self.top, lost))

    @property
    def policy(self) -> Policy:
        return Policy(self._place.waivers)

    def based(self, lost: tuple[str, ...], known: RowsSaid | None = None) -> Based:
        """What a plan of a loss is made from; known: its rows from earlier. Raises UnknownDomain."""
        taken = self.taken(lost)
        if taken not in self._based:
            key = hashlib.sha256((self._tables_key + taken).encode()).hexdigest()
            if known is None or known.key != key:
                known = rows_said(self._rows_of(taken, lost), key)
            rest = derive(self.estate, lose(*lost), self.policy, top=self.top, rows=no_rows(self.top))
            found = basis_of(only_touched(rest), known, self._more(rest), self._about)
            self._based[taken] = Based(found, known)
        return self._based[taken]

    def instance(self, lost: tuple[str, ...]) -> Instance:
        """The instance of a loss. Raises UnknownDomain."""
        taken = self.taken(lost)
        if self._kept is None or self._kept[0] != taken:
            rows = self._rows_of(taken, lost)
            made = derive(self.estate, lose(*lost), self.policy, top=self.top, rows=rows)
            self._kept = (taken, only_touched(made))
        return self._kept[1]

    def _rows_of(self, taken: str, lost: tuple[str, ...]) -> RowSet:
        if self._rows is None or self._rows[0] != taken:
            scenario = lose(*lost)
            where = lost_in(self._tables, scenario)
            self._rows = (taken, rows_of(self._tables, where, scenario, limits_in(self.top), TICK_MS))
        return self._rows[1]

    def _more(self, instance: Instance) -> tuple[object, ...]:
        """Other inputs of a plan. If facts are known only within bounds, a basis holds for this estate
        only.
        """
        estate = self.estate
        whole = self.digest if estate.intervals or instance.estimated else ""
        return __version__, estate.lead, self._place.waivers, whole

    @property
    def _about(self) -> tuple[object, ...]:
        """Other inputs of planner and checker: if a tier has no weight, users are counted again."""
        return self.estate.horizon_ms, self.digest if min(self.estate.tier_weights, default=0) <= 0 else ""


def _taken(top: Topology, places: tuple[str, ...], lost: Loss) -> str:
    """What a loss takes, without its name, so that equal losses match. places: where stores and their backups
    are.
    """
    state = hashlib.sha256()
    for mask in (lost.sites, lost.halls, lost.feeds, lost.racks, lost.pools, lost.servers):
        state.update(np.packbits(mask).tobytes())
    state.update(bytes(is_lost(top, lost, place) for place in places))
    return state.hexdigest()


_desks: dict[Place, _Desk] = {}


def _at(place: Place, observation: Observation) -> _Desk:
    if place not in _desks:
        _desks.clear()
        _desks[place] = _Desk(place)
    return _desks[place].look(observation)


def _told(work: Callable[[], Answer]) -> Answer | Failure:
    """The answer, or why there is none. An error in one plan affects only that plan."""
    try:
        with collector_at_rest():
            return work()
    except Exception as error:
        told = error if isinstance(error, EvacError) else internal(error)
        return told.code, told.message, told.hint


def opened(place: Place, observation: Observation) -> Failure | None:
    """Read the estate and load the planner in advance, so that the next question waits for neither."""

    def work() -> None:
        _at(place, observation)
        if kernels_are_kept() is not None:
            from evac.planning.warm import warm

            warm()

    return _told(work)


def basis(
    place: Place, observation: Observation, lost: tuple[str, ...], known: RowsSaid | None = None
) -> Based | Failure:
    """What a plan of that loss would be made from; known: rows of that loss from earlier."""
    return _told(lambda: _at(place, observation).based(lost, known))


@dataclass(frozen=True, slots=True)
class Told:
    """A plan that the checker accepted, and its basis. best: no plan can be better. whole: for what the
    checker accepted it, see `model.basis`. body: digest of the plan without name and estate; only of an
    existing plan.
    """

    data: bytes
    basis: str
    best: bool
    whole: str = ""
    body: str = ""


def plan(place: Place, observation: Observation, lost: tuple[str, ...], ms: int) -> Told | Failure:
    """Make a plan and check it, as read from its bytes. ms: search budget, 0 for the first plan found."""

    def work() -> Told:
        from evac.app.planner.plans import work_in
        from evac.planning.plan import plan as made_of
        from evac.verify.check import check

        desk = _at(place, observation)
        policy = Policy(tuple(sorted({s.id for s in desk.estate.stores}.intersection(place.waivers))))
        budget, instance = work_in(ms, len(desk.estate.fleet)), desk.instance(lost)
        with kernels(search_s(instance, budget)):
            made = made_of(
                desk.estate, lose(*lost), policy=policy, work=budget, known=(desk.digest, instance)
            )
        told = _as_told(plan_codec.document_of(made), desk.based(lost).basis)
        known = (desk.digest, desk.instance(lost))
        verdict = check(desk.estate, plan_codec.decode(told.data, own=True), known)
        words = why_not(replace(verdict, violations=(*desk.wrong, *verdict.violations)))
        if words:
            raise refused(words)
        return told

    return _told(work)


def again(
    place: Place, observation: Observation, lost: tuple[str, ...], data: bytes, whole: str
) -> Told | Failure | None:
    """Reuse an accepted plan with the same inputs as the plan of this loss in this estate, without planning
    or checking again. whole: of that plan; data: made here, or read in full before. None if the inputs differ
    in anything.
    """

    def work() -> Told | None:
        desk = _at(place, observation)
        found = desk.based(lost).basis
        if found.whole != whole:
            return None
        return _as_told(_headed_document(desk, lost, json.loads(data)), found)

    return _told(work)


def still(
    place: Place, observation: Observation, lost: tuple[str, ...], data: bytes, accepted: str
) -> Told | Failure | None:
    """An existing plan as the plan of this loss in this estate; None if the checker refuses it. accepted:
    body of a plan that the checker accepted for the same inputs; it is not checked again.
    """

    def work() -> Told | None:
        from evac.verify.check import check

        desk = _at(place, observation)
        found = _headed(desk.estate, desk.digest, lost, plan_codec.decode(data))
        document = plan_codec.document_of(found)
        # The plan without its head; every other key in canonical order.
        bare = {key: value for key, value in document.items() if key not in _HEAD}
        body = hashlib.sha256(written(bare)).hexdigest()
        if body != accepted and not check(desk.estate, found, (desk.digest, desk.instance(lost))).holds:
            return None
        return replace(_as_told(document, desk.based(lost).basis), body=body)

    return _told(work)


def _as_told(document: dict[str, Any], basis: Basis) -> Told:
    sheds = any(one["state"] == "shed" for one in document["services"])
    sheds = sheds or any(step["kind"] == "shed" for step in document["steps"])
    best = document["objective"] <= document["bound"]
    return Told(written(document) + b"\n", of_plan(str(basis), sheds), best, basis.whole)


def _headed(estate: Estate, digest: str, lost: tuple[str, ...], plan: Plan) -> Plan:
    """The same plan with the head of this estate; objectives stay those of the services."""
    rto_ms = rto_of(estate, lose(*lost))
    outcomes = tuple(
        one if one.rto_ms == rto_ms.get(one.service) else replace(one, rto_ms=rto_ms.get(one.service))
        for one in plan.outcomes
    )
    return replace(
        plan,
        name=estate.name,
        scenario=lose(*lost),
        estate_digest=digest,
        as_of=estate.as_of,
        outcomes=outcomes,
    )


def _headed_document(desk: _Desk, lost: tuple[str, ...], document: dict[str, Any]) -> dict[str, Any]:
    """As `_headed`, for the document of a loss plan, keeping the order of its keys."""
    estate, rto_ms = desk.estate, rto_of(desk.estate, lose(*lost))
    for one in document["services"]:
        one["rto_ms"] = rto_ms.get(one["service"])
    head = {
        "name": estate.name,
        "lost": list(lose(*lost).domains),
        "estate_digest": desk.digest,
        "as_of": None if estate.as_of is None else estate.as_of.isoformat(),
    }
    assert head.keys() <= document.keys()
    document.update(head)
    return document


def scenarios(place: Place, observation: Observation) -> tuple[Domain, ...] | Failure:
    """Every fault domain above a rack and every pair of sites, with what its loss takes."""
    return _told(lambda: tuple(_domains(_at(place, observation))))


def _domains(desk: _Desk) -> Iterator[Domain]:
    from evac.audit.auditing import loss_rows
    from evac.audit.impacts.all_losses import impacts
    from evac.audit.impacts.losses import losses

    every = (domain for domain in domains(desk.estate) if domain.kind in KINDS)
    chosen = [domain for domain in every if can_be_lost(desk.top, domain.id)]
    top = topology(without_lost(desk.estate)) if desk.estate.lost else desk.top
    rows = loss_rows(impacts(top, losses(top, [domain.id for domain in chosen])))
    for domain, row in zip(chosen, rows, strict=True):
        yield Domain((domain.id,), domain.kind, row.people_down, desk.taken((domain.id,)))
    for lost in scenarios_of([site.id for site in desk.estate.sites]):
        if len(lost) > 1:
            yield Domain(lost, "pair", 0, desk.taken(lost))
