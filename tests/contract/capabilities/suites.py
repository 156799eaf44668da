"""How drivers join the suites, one for each capability: by an adapter that makes a real or a simulated one.

A suite asks the register which drivers declare its capability, and runs against each of them. An adapter is
`ADAPTER` of `tests/contract/adapters/NAME.py`; those of simulated drivers are in `simulated.py` there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from evac.drivers.capabilities import ABOUT, HealthReport
from evac.drivers.port import Action, Driver, Verb
from evac.drivers.registry import DRIVERS
from evac.drivers.spec import DriverSpec
from tests.contract.capabilities.hostile import Wire
from tests.contract.capabilities.story import Case, Step, nothing

FOLDER: Final = "tests.contract.adapters"
REAL: Final = (pytest.mark.enable_socket, pytest.mark.servers)
Acts = Callable[[Path, Verb], AbstractContextManager[Case]]
Asks = Callable[[Path], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One driver in one kind of world.

    acts: by capability, opens a world for one verb, and yields its case. asks: by capability, opens a world
    for its questions, and yields the dataclass below that its suite asks with.
    """

    spec: DriverSpec
    acts: Mapping[type, Acts]
    asks: Mapping[type, Asks] = field(default_factory=dict)
    marks: tuple[pytest.MarkDecorator, ...] = REAL
    world: Literal["real", "simulated"] = "real"


@dataclass(slots=True)
class Asked:
    """A driver that is asked something about one endpoint, and how that endpoint falls silent."""

    driver: Any
    action: Action
    silence: Step
    speak: Step = nothing
    secrets: tuple[str, ...] = ()
    wires: tuple[Wire, ...] = ()
    play: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    """Of a simulated world: its own loop."""

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        """Plays a story, and closes the driver."""

        async def whole() -> None:
            try:
                await story
            finally:
                await self.driver.close()

        self.play(whole())


@dataclass(slots=True)
class AskedRole(Asked):
    """The action asks the primary of a healthy store."""

    replica: Action = field(kw_only=True)
    confirms: tuple[str, ...] = ()
    """Names of the copies that confirm its commits."""


@dataclass(slots=True)
class AskedProbe(Asked):
    """The action asks what lives."""

    gone: Action = field(kw_only=True)
    """Asks where nothing listens."""


@dataclass(slots=True)
class AskedSync(Asked):
    """The action asks the primary of a healthy store."""

    candidate: str = field(kw_only=True)
    """The copy that every commit needs."""
    sites: Mapping[str, str] = field(kw_only=True)


@dataclass(slots=True)
class AskedHealth(Asked):
    """The action asks a service that works."""

    fails: Callable[[], Awaitable[None]] = field(kw_only=True)
    """From now on it answers errors."""
    seen: HealthReport = field(kw_only=True)
    """What is reported before, of five samples."""
    failed: HealthReport = field(kw_only=True)


@dataclass(slots=True)
class AskedReplicas(Asked):
    """The action asks a service that is set to run two replicas."""

    set_to: Callable[[int], Awaitable[None]] = field(kw_only=True)
    untold: Action | None = field(kw_only=True, default=None)
    """Asks something that no one has told how many to run, or that runs nothing."""


@dataclass(slots=True)
class AskedTraffic(Asked):
    """The action asks about a service whose users are sent to pangyo, and could be to anyang."""

    send_to: Callable[[tuple[str, ...]], Awaitable[None]] = field(kw_only=True)
    """Sends users to these of the two sites, past the driver."""
    unclear: Mapping[str, Action] = field(kw_only=True)
    """Ask for the same, where it is not clear; by why."""


@dataclass(slots=True)
class AskedPower(Asked):
    """The action boots a server that is off."""

    on: Action = field(kw_only=True)
    """Boots one that is on."""
    another: Action = field(kw_only=True)
    """Boots one at whose address another machine answers."""


@dataclass(slots=True)
class AskedBackups(Asked):
    """The action asks a repository with one whole copy of some data."""

    change: Step = field(kw_only=True)
    """Changes the data, so that a next copy differs."""
    spoil: Callable[[], Awaitable[None]] = field(kw_only=True)
    """Flips one byte of the stored content, where a look at the structure does not see it."""
    lacking: Action | None = None
    """Asks for something more that does not exist."""
    wrong: Mapping[str, Action] = field(default_factory=dict)
    """By the code of the error that each must end in: a wrong password, a missing program."""
    to: Action | None = None
    """Another repository that copies can be made in."""
    lost: Action | None = None
    """Names another repository to copy to, that refuses us."""
    deletable: bool | None = None
    parts: int = 2
    """How many parts a whole rotation of level 2 is divided into."""
    takes: bool = True
    """Whether the driver takes copies itself; else `change` has the tool take one."""
    levels: tuple[int, ...] = (1, 2)
    """Levels of proof that the tool can give."""
    blind: bool = True
    """Whether a look at the structure misses a byte that was flipped."""
    disk: Path | None = None
    """The folder of the repository."""
    room_bytes: int = 4_096
    """What is left on a full disk: too little for a copy, and enough for what its source does meanwhile."""
    held: Callable[[], AbstractContextManager[object]] | None = None
    """Another program holds the repository alone."""
    corrupt: Step | None = None
    """Damages the catalogue of the repository."""


@dataclass(slots=True)
class AskedRestore(Asked):
    """The action asks a repository with one whole copy of some data."""

    place: Path = field(kw_only=True)
    """An empty place."""
    holds: Callable[[Path], Awaitable[bool]] = field(kw_only=True)
    """Whether a place holds the data, asked past the driver."""
    spoil: Callable[[], Awaitable[None]] = field(kw_only=True)
    left: Callable[[], Awaitable[object]] = field(kw_only=True)
    """What is at and around the place, in a value that compares equal while nothing changed."""
    fill: Callable[[Path], Awaitable[None]] = field(kw_only=True)
    """Puts something of someone else into a place."""


@dataclass(slots=True)
class AskedRequest(Asked):
    """The action asks an application that answers from restored data, as the estate expects."""

    place: Path = field(kw_only=True)
    """The restored data."""
    page: Path = field(kw_only=True)
    """A file in it, from which it answers."""
    wrong: Mapping[str, Action] = field(kw_only=True)
    """By the code of the error that each must end in."""


def adapters() -> Iterator[Adapter]:
    """Of every driver that declares something, real and simulated."""
    for name, spec in DRIVERS.items():
        if spec.capabilities and find_spec(f"{FOLDER}.{name}") is not None:
            yield import_module(f"{FOLDER}.{name}").ADAPTER
    yield from import_module(f"{FOLDER}.simulated").ADAPTERS


def questions(capability: type) -> frozenset[str]:
    """Methods of its own, besides the verbs of the port."""
    return frozenset(name for name in vars(capability) if not name.startswith("_"))


def has(driver: Driver, capability: type) -> bool:
    """Whether the class of a driver declares a capability."""
    return capability in type(driver).__mro__


def acting(capability: type, *verbs: Verb, hostile: bool = True) -> pytest.MarkDecorator:
    """Runs a test, with its `case`, for every driver that acts by these verbs of the capability. hostile: the
    first verb is tried over hostile wires too; a driver reads answers in one way for all its verbs.
    """
    assert ABOUT[capability].verbs.issuperset(verbs)
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                partial(_case, one.acts[capability], verb, hostile and verb == verbs[0]),
                id=_name(one, verb),
                marks=one.marks,
            )
            for one in adapters()
            if capability in one.acts
            for verb in verbs
        ],
        indirect=True,
    )


def asking(capability: type, *, real: bool = False) -> pytest.MarkDecorator:
    """Runs a test, with what is `asked`, for every driver that has the capability. real: of real servers
    only.
    """
    assert questions(capability)
    return pytest.mark.parametrize(
        "asked",
        [
            pytest.param(one.asks[capability], id=_name(one), marks=one.marks)
            for one in adapters()
            if capability in one.asks and (one.world == "real" or not real)
        ],
        indirect=True,
    )


@contextmanager
def _case(opens: Acts, verb: Verb, hostile: bool, folder: Path) -> Iterator[Case]:
    with opens(folder, verb) as made:
        if not hostile:
            made.wires = ()
        yield made


def _name(adapter: Adapter, *more: str) -> str:
    return "-".join((adapter.spec.name, adapter.world, *more))
