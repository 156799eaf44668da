"""Simulated repositories of copies, and the driver that restores from them, by the names of the real one.

A repository is in a site. A restore fills a place at the site of its action, which outlives the process that
asked for it, as a half-filled folder does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evac.drivers import parameters
from evac.drivers.backups import newest
from evac.drivers.capabilities import (
    PARTS_PER_MILLION,
    READ,
    STRUCTURE,
    Begins,
    CopyReport,
    Listing,
    Proof,
    Restored,
    RestoresData,
    Taken,
    TakesBackups,
)
from evac.drivers.port import Action, Evidence, Order, Verb
from evac.model.errors import ActionError, Permanent
from tests.sim.simulated_driver import SimulatedDriver, question

SIZE = 1_000_000


@dataclass(slots=True)
class Repository:
    """Copies of one data set. content: what the data is now; each change of it makes another tree."""

    id: str
    copies: list[CopyReport] = field(default_factory=list)
    content: int = 0
    spoilt: bool = False

    def take(self, now_s: int, original: CopyReport | None = None) -> CopyReport:
        tree = f"tree-{self.content}" if original is None else original.tree
        copy = CopyReport(
            f"{self.id}-{len(self.copies) + 1}",
            now_s,
            SIZE,
            10,
            ("/data",),
            original="" if original is None else original.id,
            tree=tree,
        )
        self.copies.append(copy)
        return copy


@dataclass(slots=True)
class Filled:
    """A place that was restored into. tree: what it holds; key, token, epoch: of the order."""

    tree: str
    copy: str
    key: str = ""
    token: int = 0
    epoch: int = 0


class ResticSimulated(SimulatedDriver, TakesBackups, RestoresData):
    """The repository of a data set at the site that `repository` names."""

    name = "restic"
    verbs: frozenset[Verb] = frozenset({"restore"})
    host_key = "repository"

    def repository(self, action: Action) -> Repository:
        found = self.world.repositories.get((action.target, self.site(action)))
        if found is None:
            words = f"{self.site(action)} has no copies of {action.target}"
            raise Permanent("backup-no-repository", words, "take one")
        return found

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        def serve() -> Listing:
            found = self.repository(action)
            return Listing(found.id, tuple(found.copies), self.name, "0", deletable=False)

        return await self._look(action, question(timeout_s), serve)

    async def take(self, action: Action, timeout_s: float) -> Taken:
        def serve() -> Taken:
            copy = self.repository(action).take(self.now_s())
            return Taken(copy, SIZE, SIZE, 10)

        return await self._change(action, question(timeout_s), serve)

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        return {}

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        if level not in (STRUCTURE, READ):
            raise Permanent("proof-unknown", f"no proof of level {level}")
        share = PARTS_PER_MILLION // of if level == READ else 0

        def serve() -> Proof:
            found = self.repository(action)
            damaged = found.spoilt and level == READ and part == of
            outcome = "damaged" if damaged else "passed"
            read = len(found.copies) * SIZE * share // PARTS_PER_MILLION
            facts = (read, share, 10, self.site(action), self.name, "0")
            return Proof("", level, outcome, *facts, repository=found.id)  # type: ignore[arg-type]

        try:
            return await self._look(action, question(timeout_s), serve)
        except ActionError as error:
            known = (level, "could-not-run", 0, 0, 10, self.site(action), self.name, "0")
            return Proof("", *known, error.code, error.words)  # type: ignore[arg-type]

    async def copy_on(self, action: Action, timeout_s: float, to: Action, begins: Begins) -> Taken:
        (*_, last) = (await self.list_copies(action, timeout_s)).copies
        there = [one for one in self.repository(to).copies if one.original == last.id]
        await begins(last, there)

        def serve() -> Taken:
            made = there[0] if there else self.repository(to).take(self.now_s(), last)
            return Taken(made, SIZE, SIZE, 10)

        return await self._change(to, question(timeout_s), serve)

    async def restore(
        self, action: Action, timeout_s: float, copy: str, place: str, until: int | None
    ) -> Restored:
        return await self._change(
            action, question(timeout_s), lambda: self._fill(action, copy, place, until, None)
        )

    async def clean_up(self, action: Action, timeout_s: float, place: str) -> None:
        def serve() -> None:
            found = self.world.places.get((action.at, place))
            if found is not None and (found.key or found.copy == ""):
                raise Permanent("place-in-use", f"no test restored {place}")
            self.world.places.pop((action.at, place), None)

        await self._change(action, question(timeout_s), serve)

    def problems(self, action: Action, order: Order) -> list[str]:
        self.refuse_stale(action, order)
        newest(Listing("", tuple(self.repository(action).copies), "", ""), "", None)
        found = self.world.places.get((action.at, self.place(action)))
        return [] if found is None or found.key == order.key else [f"{self.place(action)} is not empty"]

    def refuse_stale(self, action: Action, order: Order) -> None:
        found = self.world.places.get((action.at, self.place(action)))
        if found is not None and order.token < found.token:
            raise parameters.stale_token(self.place(action), found.token, order)
        if found is not None and order.epoch < found.epoch:
            raise Permanent("stale-epoch", f"{self.place(action)} was restored under a later epoch")

    def do(self, action: Action, order: Order) -> Evidence:
        if not self.is_done(action, order):
            self._fill(action, "", self.place(action), None, order)
        found = self.world.places[action.at, self.place(action)]
        found.token, found.epoch = max(found.token, order.token), max(found.epoch, order.epoch)
        return {"copy": found.copy, "place": self.place(action), "bytes": SIZE}

    def is_done(self, action: Action, order: Order) -> bool:
        found = self.world.places.get((action.at, self.place(action)))
        return found is not None and found.key == order.key

    def place(self, action: Action) -> str:
        return parameters.text(action.settings, "place")

    def now_s(self) -> int:
        """The first day of the world is not a copy's last."""
        return 86_400 * 10 + self.world.loop.now_ms() // 1_000

    def _fill(
        self, action: Action, copy: str, place: str, until: int | None, order: Order | None
    ) -> Restored:
        repository = self.repository(action)
        found = newest(Listing("", tuple(repository.copies), "", ""), copy, until)
        if (action.at, place) in self.world.places:
            raise Permanent("place-not-empty", f"{place} is not empty")
        if repository.spoilt:
            raise Permanent("restore-incomplete", "some of it did not come back")
        key, token, epoch = ("", 0, 0) if order is None else (order.key, order.token, order.epoch)
        self.world.places[action.at, place] = Filled(found.tree, found.id, key, token, epoch)
        return Restored(found.id, place, SIZE, 10, found.taken_at, {"manifest": found.tree}, found.taken_at)
