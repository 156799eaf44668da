"""The runner of stories: a world, the acts that befall it one by one, and what came of it.

What is in the world, and every act, is drawn from a seed before the story begins. A kind of story says how it
begins, what each act does, and what must be true at its end. A broken rule ends a story at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from evac_lab.virtual_loop import VirtualLoop, run
from tests.sim.faulty_store import Weather
from tests.sim.world import Broken, Faults, World

LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Act:
    """Something that befalls the world."""

    at_s: float
    what: str
    name: str = ""
    """Of a site, a rack, a feed, a boot server or a budget."""
    for_s: float = 0.0
    """How long it lasts; 0: for good."""
    share: float = 1.0
    """What is left of a budget."""
    turns: int = 0
    """How many callbacks later than `at_s`, so that it strikes at any await."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every kind of story is drawn with."""

    seed: int
    acts: tuple[Act, ...]

    def lines(self) -> list[str]:
        """One line an option, for people."""
        found = [f"{one.name} = {getattr(self, one.name)}" for one in fields(self) if one.name != "acts"]
        return found + [f"act: {act}" for act in self.acts]


@dataclass(slots=True)
class Outcome:
    """What a story came to."""

    options: Any
    error: str = ""
    """Empty where nothing broke."""
    trace: str = ""
    """A digest of all that happened: the same for the same seed."""
    turns: int = 0
    virtual_s: float = 0.0
    fires: int = 0
    effects: int = 0
    ends: dict[str, str] = field(default_factory=dict)
    """Run -> the phase that it ended in."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Events of all journals."""
    up: int = 0
    """Servers of a wave that are up at its end."""
    hands_on: int = 0
    """Servers on the hands-on list of a wave."""
    trips: int = 0
    samples: int = 0
    """How often the power that a domain draws was held against its budget."""
    said: list[str] = field(default_factory=list)


class Story(ABC):
    """One story. Its kind fills the world, and knows what each act does."""

    def __init__(self, options: Any, weather: Weather, faults: Faults, tracing: bool = False) -> None:
        self.options = options
        self.loop = VirtualLoop(options.seed)
        self.world = World(self.loop, weather, faults, tracing=tracing)
        self.kinds = Counter[str]()

    @abstractmethod
    async def tell(self) -> None:
        """From the beginning to the end. Raises `Broken`."""

    @abstractmethod
    def act(self, act: Act) -> None:
        """What this act does."""

    @abstractmethod
    def report(self, outcome: Outcome) -> None:
        """Adds what the kind of story knows."""

    def befall(self, acts: Iterable[Act]) -> None:
        """Has these acts happen, each at its time from now on."""
        for act in acts:
            self.loop.in_world(act.at_s, self._begin, act)

    def _begin(self, act: Act) -> None:
        if act.turns:
            self.loop.at_turn(self.loop.turns + act.turns, lambda: self.act(act))
        else:
            self.act(act)

    def play(self) -> Outcome:
        """The whole story. Never raises for what it finds."""
        world, outcome = self.world, Outcome(self.options, kinds=self.kinds)
        try:
            run(self.loop, self.tell())
        except Broken as broken:
            outcome.error = str(broken)
        except Exception as error:  # whatever else ends a story is a finding as well
            outcome.error = f"{type(error).__name__}: {error}"
            if world.tracing:
                outcome.error += "\n" + "".join(traceback.format_exception(error))
        outcome.trace = self.digest()
        outcome.turns, outcome.virtual_s = self.loop.turns, self.loop.time()
        outcome.effects, outcome.said = world.effects, world.said
        self.report(outcome)
        return outcome

    def digest(self) -> str:
        """Of every value in the store, and of how many callbacks it took."""
        whole = hashlib.sha256()
        for entry in self.world.cluster.entries(""):
            whole.update(f"{entry.key}\0{entry.revision}\0".encode() + entry.value)
        whole.update(str((self.loop.turns, self.loop.time())).encode())
        return whole.hexdigest()

    async def until(self, what: Callable[[], str], most_s: float, words: str) -> None:
        """Waits until `what` names nothing any more. Raises `Broken` with what it names, and the words."""
        deadline = self.loop.time() + most_s
        while left := what():
            if self.loop.time() > deadline:
                raise Broken(f"{left} {words}")
            for process in self.loop.processes:
                if process.alive and process.failure is not None:
                    raise Broken(f"{process.name} ended: {process.failure!r}") from process.failure
            await asyncio.sleep(LOOK_S)
