"""What a rule is given: the estate, the impacts of every loss, the date, and judgements rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Final

import numpy as np

from evac.audit.closure import Pairs
from evac.audit.findings import DOMAIN_CLASSES, Finding
from evac.audit.impacts import LOST, RECOVERS, Impacts
from evac.audit.stores import Outcome
from evac.model.diagnostic import Severity
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn

_CLASS_RANK: Final = {name: rank for rank, name in enumerate(DOMAIN_CLASSES)}


@dataclass(frozen=True, slots=True)
class NoRoom:
    """What is left has no room for so many of the replicas that a service needs."""

    replicas: int

    def __str__(self) -> str:
        return f"no room for {self.replicas:,} of the replicas it needs"


@dataclass(frozen=True, eq=False)
class Context:
    """Everything a rule may read. as_of: None where no date is known; digest: of the estate, if made."""

    estate: Estate
    impacts: Impacts
    as_of: date | None = None
    digest: str | None = None
    stuck_at: dict[tuple[int, int], str | NoRoom] = field(default_factory=dict)
    """(loss, service) -> why nothing brings it back by itself, else empty; filled as it is asked for."""

    @cached_property
    def firm(self) -> BoolColumn:
        """(S,) services that may not be shed."""
        return np.array([not s.sheddable for s in self.estate.services], np.bool_)

    @cached_property
    def harmless(self) -> BoolColumn:
        """(S,) of the lowest tier, and nobody is known to notice."""
        last = len(self.estate.tier_weights) - 1
        return np.array(
            [s.tier is not None and s.tier >= last and s.people == 0 for s in self.estate.services], np.bool_
        )

    @cached_property
    def gone(self) -> Pairs:
        """Services that nothing brings back."""
        down = self.impacts.damage.pairs
        return down.only(down.of(self.impacts.fate) == LOST)

    @cached_property
    def late(self) -> Pairs:
        """Services that are back, but after the objective."""
        impacts, down = self.impacts, self.impacts.damage.pairs
        after = down.of(impacts.ready_ms) > impacts.rto_ms[down.service]
        return down.only((down.of(impacts.fate) == RECOVERS) & after)

    @cached_property
    def grave(self) -> BoolColumn:
        """(L, S) a loss that is an error: gone for good or back too late, of a service that counts.

        A service that may be shed, or of the lowest tier that nobody notices, is never an error by
        itself; one without an objective is one only if nothing brings it back.
        """
        found = np.zeros(self.impacts.fate.shape, np.bool_)
        for pairs, counts in ((self.gone, self.firm & ~self.harmless), (self.late, self.firm)):
            grave = pairs.only(counts[pairs.service])
            found[grave.loss, grave.service] = True
        return found

    @cached_property
    def full_sites(self) -> BoolColumn:
        """(sites,) sites that run services, neither witness nor edge."""
        return np.array([s.role == "full" for s in self.estate.sites], np.bool_)

    @cached_property
    def stands_at(self) -> BoolColumn:
        """(sites, S) where a service stands, edge sites left out if it stands at a full one too."""
        at = np.asarray(self.impacts.presence.per_site > 0)
        full = np.asarray(at & self.full_sites[:, None])
        somewhere = np.asarray(full.any(axis=0))
        return np.where(somewhere[None, :], full, at)

    @cached_property
    def only_site(self) -> list[int]:
        """Index of the one site of each service; -1 if there are several, or none is known."""
        counts = self.stands_at.sum(axis=0)
        if not self.stands_at.size:
            return [-1] * len(self.estate.services)
        found: list[int] = np.where(counts == 1, self.stands_at.argmax(axis=0), -1).tolist()
        return found

    @cached_property
    def loss_rank(self) -> list[tuple[int, int]]:
        """How grave the kind of each loss is, then its number."""
        return [(_CLASS_RANK[kind], number) for number, kind in enumerate(self.impacts.losses.kinds)]

    def worst_first(self, numbers: Iterable[int]) -> list[int]:
        """Losses in order of their kind: sites, groups, halls, feeds, racks."""
        return sorted(numbers, key=lambda n: self.loss_rank[n])

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.impacts.losses.ids[n] for n in numbers)

    def outcomes(self, store: int) -> list[tuple[int, Outcome]]:
        """(loss, outcome) of the losses that take a store: its primary, its majority or all of it."""
        return [(n, found) for n, found in self.impacts.stores.of(store) if found.lost]

    def family_gone(self, store: int, number: int) -> bool:
        """Whether no other instance of the store's family is left under a loss."""
        stores = self.impacts.graph.family_stores[self.estate.stores[store].family]
        return bool(self.impacts.stores.lost[number, list(stores)].all())

    @cached_property
    def users_of(self) -> dict[str, tuple[int, ...]]:
        """Store family -> services that hard-need it."""
        found: dict[str, list[int]] = {}
        for service, families in enumerate(self.impacts.graph.families):
            for family in families:
                found.setdefault(family, []).append(service)
        return {family: tuple(services) for family, services in found.items()}


def by_service(pairs: Pairs) -> Iterator[tuple[int, list[int]]]:
    """(service, losses) of pairs, for the services with any."""
    if not len(pairs):
        return
    service, loss = pairs.service, pairs.loss.tolist()
    edges = np.flatnonzero(np.diff(service, prepend=-1)).tolist()
    names = service[edges].tolist()
    for name, first, last in zip(names, edges, [*edges[1:], len(loss)], strict=True):
        yield name, loss[first:last]


@dataclass(frozen=True, slots=True)
class Rule:
    """A check with a stable name."""

    id: str
    code: str
    title: str
    check: Callable[[Context], Iterable[Finding]]
    per_loss: bool = True
    """It asks what a loss does, so pairs of losses are asked too."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Builds findings of one rule, so that each says the same things in the same way."""

    rule: str
    code: str

    def make(
        self,
        context: Context,
        severity: Severity,
        subject: str,
        message: str,
        fix: str,
        *,
        losses: Sequence[int] = (),
        chain: tuple[str, ...] = (),
        paths: Sequence[str] = (),
    ) -> Finding:
        """`losses`: numbers, worst first; `paths`: fact paths to change, the first known one is shown."""
        return Finding(
            rule=self.rule,
            code=self.code,
            severity=severity,
            subject=subject,
            message=message,
            fix=fix,
            domains=context.names(losses),
            domain_class=context.impacts.losses.kinds[losses[0]] if losses else "estate",
            chain=chain,
            path=paths[0] if paths else "",
            paths=tuple(paths),
            place=context.estate.place(*paths),
        )
