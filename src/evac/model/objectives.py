"""Objectives for each class of loss: how long an outage may be, and how much data may be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from evac.model.records import dataclass
from evac.model.units import UNLIMITED

if TYPE_CHECKING:
    from evac.model.estate import Service, Store

LossClass = Literal["software", "server", "rack", "hall", "site", "region"]
"""Class of a loss: the largest thing it takes, smallest class first. region: several sites; software: a
provider.
"""
LOSS_CLASSES: Final[tuple[LossClass, ...]] = get_args(LossClass)


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective for losses of one class; None: the same as for all."""

    rto_ms: int | None = None
    rpo_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Objectives:
    """Objectives by class of loss, see `LossClass`; a class that is left out has the plain ones."""

    software: Objective = Objective()
    server: Objective = Objective()
    rack: Objective = Objective()
    hall: Objective = Objective()
    site: Objective = Objective()
    region: Objective = Objective()

    def of(self, loss: LossClass) -> Objective:
        found: Objective = getattr(self, loss)
        return found


def rto_for(service: Service, loss: LossClass) -> int | None:
    """The maximum acceptable outage of a service after a loss of a class."""
    own = None if service.objectives is None else service.objectives.of(loss).rto_ms
    return service.rto_ms if own is None else own


def rpo_for(subject: Service | Store, loss: LossClass) -> int | None:
    """The maximum acceptable data loss with a loss of a class."""
    own = None if subject.objectives is None else subject.objectives.of(loss).rpo_ms
    return subject.rpo_ms if own is None else own


def rpo_fact(store: str) -> str:
    """Path of how much data a store may lose."""
    return f"stores/{store}/rpo"


def lag_fact(store: str) -> str:
    """Path of how far the copies of a store are behind."""
    return f"stores/{store}/lag"


def backups_fact(store: str) -> str:
    """Path of the size, age and restore rate of a store's backups."""
    return f"stores/{store}/backups"


def loss_facts(store: str) -> frozenset[str]:
    """Paths of the facts without which it is unknown whether a store loses too much data."""
    return frozenset((rpo_fact(store), lag_fact(store), backups_fact(store)))


def open_rpo_words(stores: int) -> str:
    """How many stores lose data, or may, and no RPO or no lag is stated; empty for none."""
    noun, whose = ("store", "its") if stores == 1 else ("stores", "their")
    return f"{stores:,} {noun} may lose too much data: {whose} rpo or lag is not stated" if stores else ""


def accepts(rpo_ms: int | None, loss_ms: int | None) -> bool:
    """Whether an RPO allows a loss of data. An unknown loss (None) exceeds every RPO but `unlimited`; without
    an RPO, nothing forbids a loss.
    """
    if rpo_ms is None or rpo_ms >= UNLIMITED:
        return True
    return loss_ms is not None and loss_ms <= rpo_ms
