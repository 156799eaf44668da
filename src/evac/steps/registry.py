"""Every kind of step, one line per kind, in listing order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from evac.steps.approve import Approve
from evac.steps.attest import Attest
from evac.steps.backup import Backup
from evac.steps.boot import Boot
from evac.steps.elect import Elect
from evac.steps.fence import Fence
from evac.steps.force_quorum import ForceQuorum
from evac.steps.kind import Condition, StepKind
from evac.steps.load import Load
from evac.steps.power import Power
from evac.steps.promote import Promote
from evac.steps.protect import Protect
from evac.steps.redirect import Redirect
from evac.steps.rejoin import Rejoin
from evac.steps.reprotect import Reprotect
from evac.steps.restore import Restore
from evac.steps.shed import Shed
from evac.steps.shift import Shift
from evac.steps.start import Start
from evac.steps.stop import Stop
from evac.steps.unprotect import Unprotect
from evac.steps.verify import Verify

KINDS: Final[tuple[StepKind, ...]] = (
    Approve(),
    Backup(),
    Fence(),
    Promote(),
    Restore(),
    Elect(),
    ForceQuorum(),
    Boot(),
    Start(),
    Verify(),
    Shift(),
    Shed(),
    Stop(),
    Attest(),
    Power(),
    Reprotect(),
    Unprotect(),
    Rejoin(),
    Protect(),
    Redirect(),
    Load(),
)

_BY_NAME: Final[Mapping[str, StepKind]] = MappingProxyType({kind.name: kind for kind in KINDS})

PLANNED: Final[Mapping[str, StepKind]] = MappingProxyType({k.name: k for k in KINDS if k.is_planned})
"""The kinds that a plan file may have, by name."""
STATED_KINDS: Final[tuple[str, ...]] = tuple(k.name for k in PLANNED.values() if k.like == k.name)
"""The kinds that an estate may name: manual durations, and what an automation undoes."""
START_CYCLE: Final = "start-cycle"
"""What people may also do: break a circle of services that need each other to start."""
MANUAL_KINDS: Final[tuple[str, ...]] = (
    *STATED_KINDS,
    *(k.name for k in PLANNED.values() if k.takes_people and k.name not in STATED_KINDS),
    START_CYCLE,
)
"""What an estate may give a manual duration."""


def planned_in_order(code: Callable[[StepKind], int]) -> tuple[str, ...]:
    """Names of the kinds with a code in a planner's kernels, in the order of these codes."""
    stated = (PLANNED[name] for name in STATED_KINDS)
    return tuple(kind.name for kind in sorted(stated, key=code) if code(kind) >= 0)


def kind_of(name: str) -> StepKind:
    """The kind of a step by its name in plans and journals. Raises KeyError."""
    return _BY_NAME[name]


def kinds_for(when: Condition) -> tuple[StepKind, ...]:
    """The kinds that a service's base needs under a condition."""
    return tuple(PLANNED[name] for name in STATED_KINDS if PLANNED[name].condition is when)


def base_kinds(*, starts: bool, shifts: bool, stores: bool) -> tuple[StepKind, ...]:
    """The kinds that a service's base needs wherever its replicas are placed.

    starts: replicas must start; shifts: traffic must move; stores: one of its stores lost its primary.
    """
    met = {
        Condition.ALWAYS: True,
        Condition.STARTS: starts,
        Condition.SHIFTS: shifts,
        Condition.STORES: stores,
    }
    return tuple(kind for when, holds in met.items() if holds for kind in kinds_for(when))
