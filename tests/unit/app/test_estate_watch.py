"""A composed controller takes changed files, keeps what it has where they are broken, and says so."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.app.controlling import Composed, Setting, compose
from evac.app.estates.copies import Copies, Edition, NotCopied, Standing, read_standing, words_of
from evac.app.estates.watch import EstateWatch, needs_restart, policy_waits
from evac.app.planner.plans import make_plan
from evac.engine.clock import SystemClock
from evac.engine.lead.watch_journal import Notice
from evac.model.digest import estate_digest
from evac.model.errors import StalePlan
from evac.model.observation import MemberSeen, Observation
from evac.model.run_policy import PROFILES, RunPolicy, StorePolicy
from evac.model.scenario import lose
from evac.office.notices.looking import NoticeReckoner
from evac.office.reckoning import Worker

pytestmark = pytest.mark.enable_socket

ESTATE = """evac: 1
name: two
sites: {pangyo: {}, anyang: {}}
services:
  web: {tier: 0, people: 1, demand: {cpu: 1 cores}, start: 1 s, needs: [{store: db}]}
stores:
  db: {engine: postgresql, members: [{at: pangyo, mode: primary}, {at: anyang, mode: sync}], rpo: 0 s}
endpoints:
  w: {for: web, at: anyang, driver: http, settings: {url: "http://127.0.0.1:9/"}}
"""
WINDOW = 'windows: [{from: "2026-12-01T01:00:00Z", to: "2026-12-01T05:00:00Z"}]\n'
MAIL = "  mail: {tier: 1, people: 1, demand: {cpu: 1 cores}, start: 1 s}\nstores:\n"


MOVED = Observation(1, (MemberSeen("db", "anyang", "primary"), MemberSeen("db", "pangyo", "sync")))


class World:
    """An estate on disk, and a controller that runs on a copy of it."""

    def __init__(self, folder: Path, made: Composed, copies: Copies, watch: EstateWatch) -> None:
        self.folder, self.made, self.copies, self.watch = folder, made, copies, watch
        self.notices: list[Notice] = []

    def write(self, text: str) -> None:
        (self.folder / "estate.yaml").write_text(text)

    def policy(self, text: str) -> None:
        (self.folder / "policy.yaml").write_text(text)

    async def look(self) -> Standing:
        await self.watch.look(at_once=True)
        found = read_standing(self.copies.standing)
        assert found == self.watch.standing
        return self.watch.standing

    @property
    def services(self) -> list[str]:
        return [service.id for service in self.made.seen.estate.services]

    def told(self) -> list[str]:
        """Kinds of what was said since the last time."""
        found, self.notices[:] = [notice.kind for notice in self.notices], []
        return found


def play(tmp_path: Path, story: Callable[[World], Awaitable[None]]) -> None:
    folder = tmp_path / "estate"
    folder.mkdir()
    (folder / "estate.yaml").write_text(ESTATE)
    (tmp_path / "base").mkdir()

    async def run() -> None:
        copies = Copies(folder, base=tmp_path / "base")
        notices: list[Notice] = []
        used = copies.used
        setting = Setting(used.estate, "pangyo", f"sqlite:{tmp_path / 's'}", used.policy, watch=False)
        made = await compose(setting, notices.append)
        watch = EstateWatch(copies, made, None, SystemClock(), watches=True)
        world = World(folder, made, copies, watch)
        world.notices = notices
        watch._write()
        try:
            await story(world)
        finally:
            await made.close()
            copies.close()

    asyncio.run(run())


def test_a_changed_estate_is_taken_whole_and_said_with_both_digests(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        seen = world.made.seen
        seen._take(
            Observation(1, (MemberSeen("db", "anyang", "primary"), MemberSeen("db", "pangyo", "sync")))
        )
        before, policy = seen.digest, world.made.controller.parts.desk.policy
        bind = world.made.controller.parts.desk.bind
        old = make_plan(seen.estate, lose("pangyo"), budget_ms=0).data
        world.write(ESTATE.replace("stores:\n", MAIL, 1).replace("w: {for: web", "m: {for: mail"))
        standing = await world.look()
        assert (standing.well, world.services) == (True, ["mail", "web"])
        assert [store.primary.at for store in seen.estate.stores if store.primary] == ["anyang"], "as seen"
        (notice,) = world.notices
        assert notice.kind == "estate"
        assert notice.data == {"estate": seen.digest, "before": before}
        assert world.made.worker._place.path == str(world.copies.used.estate)
        assert estates.load(world.copies.estate).services[0].id == "mail"
        assert world.made.controller.parts.desk.guards._pooled == {"web": (), "mail": ("anyang",)}
        with pytest.raises(StalePlan):
            await bind(old, "r", "i", "sha256:0")
        new = make_plan(seen.estate, lose("pangyo"), budget_ms=0).data
        assert (await bind(new, "r", "i", "sha256:0")).spec.run == "r"
        assert world.made.controller.parts.desk.policy is policy

    play(tmp_path, story)


def test_a_broken_estate_leaves_the_old_one_and_is_said_once_until_it_is_mended(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        digest, taken = world.made.seen.digest, world.watch.standing.taken_ms
        world.write(ESTATE.replace("{store: db}", "{store: dbx}"))
        standing = await world.look()
        assert (standing.problems, standing.taken_ms, world.made.seen.digest) == (1, taken, digest)
        assert standing.first.startswith("estate.yaml:5:")
        assert "dbx" in standing.first
        await world.look()
        assert world.told() == ["trouble"]
        assert estates.load(world.copies.estate).stores[0].id == "db", "nobody reads the broken one"
        world.write("evac: [")
        assert (await world.look()).since_ms == standing.since_ms
        (world.folder / "estate.yaml").unlink()
        assert (await world.look()).problems == 1
        world.write(ESTATE)
        assert (await world.look()).well
        assert world.told() == ["trouble", "trouble", "estate"]
        assert world.made.seen.digest == digest

    play(tmp_path, story)


def test_what_needs_a_new_start_is_refused_and_said(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.write(ESTATE.replace("anyang: {}", "anyang: {}, ansan: {}"))
        standing = await world.look()
        assert (standing.restart, standing.well) == ("the site ansan is new", False)
        assert len(world.made.seen.estate.sites) == 2
        world.write(ESTATE.replace("stores:\n", MAIL, 1))
        world.policy("watch: {profile: fast}\n")
        standing = await world.look()
        assert (standing.restart, standing.policy) == (
            "the rules for recognising a lost site have changed (watch)",
            True,
        )
        assert words_of(standing).startswith(
            "the policy on disk cannot be loaded while evac is running, because the rules"
        )
        assert world.services == ["mail", "web"], "the estate is taken beside the policy in use"
        assert world.copies.policy is None, "the processes beside go by the policy in use"
        await world.look()
        assert world.told() == ["trouble", "estate", "trouble"]
        world.write("evac: [")
        assert (await world.look()).problems
        world.write(ESTATE.replace("stores:\n", MAIL, 1))
        assert (await world.look()).restart.endswith("have changed (watch)")
        (world.folder / "policy.yaml").unlink()
        assert (await world.look()).well
        assert [notice.words for notice in world.notices][
            -1
        ] == "the policy on disk matches the one in use again"

    play(tmp_path, story)


def test_a_changed_policy_is_taken_whole_and_said_with_what_changed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        desk, seen = world.made.controller.parts.desk, world.made.seen
        before, digest = desk.policies.digest, seen.digest
        first = world.watch.standing
        world.policy("approvals: 2\nstores: {db: {fence_proofs: [sync]}}\n")
        assert (await world.look()).restart.startswith(
            "plans may promote db under a different rule (stores/db"
        )
        assert desk.policy == RunPolicy()
        desk.policies.keep("r1", desk.policy)
        world.notices.clear()
        world.policy(
            f"approvals: 2\npace: {{shares: [10 %, 100 %]}}\nenvelope: {{sites: [pangyo]}}\n{WINDOW}"
        )
        standing = await world.look()
        assert standing.well
        assert (standing.taken_ms, standing.policy_ms >= first.policy_ms) == (first.taken_ms, True)
        assert (desk.policy.approvals, len(desk.policy.windows), seen._policy) == (2, 1, desk.policy)
        assert desk.policies.of("r1").envelope.sites == (), "what is looser is not for what is under way"
        assert len(desk.policies.of("r1").windows) == 1
        (notice,) = world.notices
        assert (notice.kind, seen.digest) == ("policy", digest)
        assert notice.data == {
            "policy": desk.policies.digest,
            "before": before,
            "held": ["r1"],
            "changed": ["approvals", "envelope", "windows", "pace"],
        }
        assert notice.words.endswith("where it is looser, it does not apply to r1")
        assert world.copies.policy is not None
        assert "approvals: 2" in world.copies.policy.read_text()
        await world.look()
        assert world.told() == ["policy"], "and is said once"
        (world.folder / "policy.yaml").unlink()
        assert (await world.look()).well
        assert (desk.policy, world.told()) == (RunPolicy(), ["policy"]), (
            "without a file the careful one holds"
        )

    play(tmp_path, story)


def test_a_broken_policy_is_said_with_its_place_and_the_old_one_stays(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        desk = world.made.controller.parts.desk
        world.policy("approvals: 2\n")
        await world.look()
        world.policy("approvals: 2\nenvelope: {sites: [pangy]}\n")
        standing = await world.look()
        assert standing.first == "policy.yaml:2:20: the estate has no site 'pangy'"
        words = words_of(standing)
        assert words.startswith("the policy on disk has 1 problem, evac continues with the one from ")
        world.policy("approvals: 2\nmode: act\n")
        assert (await world.look()).first.startswith(
            "policy.yaml:2:7: mode act is refused: the store would not"
        )
        assert (desk.policy.mode, desk.policy.approvals, world.told()) == (
            "advise",
            2,
            ["policy", "trouble", "trouble"],
        )
        world.policy("approvals: 2\n")
        assert (await world.look()).well
        assert world.told() == ["policy"]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ({}, {"mode": "act", "approvals": 3, "pause_most_ms": 1, "generation": "asked"}, ""),
        ({}, {"profile": PROFILES["fast"]}, "the rules for recognising a lost site have changed (watch)"),
        ({}, {"store": StorePolicy("db")}, "plans may promote db under a different rule"),
        ({"store": StorePolicy("db")}, {"store": StorePolicy("db", ("power",), most_lost_ms=5)}, ""),
        ({"store": StorePolicy("db")}, {"store": StorePolicy("db", async_promotion="allow")}, ""),
        ({"store": StorePolicy("db")}, {"store": StorePolicy("db", async_promotion="never")}, "plans may"),
        (
            {"store": StorePolicy("db")},
            {"store": StorePolicy("db", self_fence=True)},
            "the lease that db",
        ),
        ({"store": StorePolicy("db")}, {"store": StorePolicy("db", lease_ttl_ms=1)}, ""),
        (
            {"store": StorePolicy("db", self_fence=True)},
            {},
            "the lease that db fences itself with has changed",
        ),
    ],
)
def test_what_of_a_policy_waits_for_a_new_start(old: dict[str, Any], new: dict[str, Any], why: str) -> None:
    policies = []
    for told in (old, new):
        rest = {name: value for name, value in told.items() if name != "store"}
        stores = {"db": told["store"]} if "store" in told else {}
        policies.append(RunPolicy(**rest, stores=stores))
    found = policy_waits(*policies)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_files_that_are_just_written_are_left_to_settle(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.watch.look()
        world.write(ESTATE.replace("stores:\n", MAIL, 1))
        await world.watch.look()
        assert world.services == ["web"]
        await world.watch.look()
        assert world.services == ["mail", "web"]
        copied = world.copies.used.folder
        await world.watch.look()
        assert world.copies.used.folder == copied, "and are read once"

    play(tmp_path, story)


def test_what_could_not_be_copied_is_tried_again_though_no_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(world: World) -> None:
        def full() -> Edition:
            raise NotCopied("cannot copy it to /run: No space left on device")

        world.write(ESTATE.replace("stores:\n", MAIL, 1))
        with monkeypatch.context() as patch:
            patch.setattr(world.copies, "copy", full)
            for _ in range(3):
                await world.watch.look()
            assert world.watch.standing.first.endswith("No space left on device")
        for _ in range(2):
            await world.watch.look()
        assert (world.services, world.watch.standing.well) == (["mail", "web"], True)
        assert world.told() == ["trouble", "estate"], "each once"

    play(tmp_path, story)


def test_a_copy_that_somebody_tidied_up_is_made_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.watch.look()
        await world.watch.look()
        shutil.rmtree(world.copies.used.folder)
        await world.watch.look()
        assert estates.load(world.copies.estate).name == "two"
        assert world.made.worker._place.path == str(world.copies.used.estate)
        assert (world.told(), world.watch.standing.well) == ([], True)

    play(tmp_path, story)


def test_everybody_beside_reckons_by_the_edition_in_use(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        link = world.copies.estate
        room, notices = Worker(link, apart=False), NoticeReckoner(link, apart=False)
        nothing = Observation(0)
        before = (await room.reckon(nothing)).facts
        rpos = (await notices.reckon(nothing)).rpos
        world.write(ESTATE.replace("stores:\n", MAIL, 1).replace("rpo: 0 s", "rpo: 5 s"))
        assert (await room.reckon(nothing)).facts.digest == before.digest, "nobody has taken it yet"
        await world.look()
        facts = (await room.reckon(nothing)).facts
        assert [service.id for service in facts.services] == ["mail", "web"]
        assert facts.digest == world.made.seen.digest
        assert (rpos, (await notices.reckon(nothing)).rpos) == ({"db": 0}, {"db": 5_000})

    play(tmp_path, story)


def test_roles_that_are_seen_while_files_are_read_are_not_lost(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        seen = world.made.seen
        new = estates.load(world.folder)
        adopting = asyncio.create_task(seen.adopt(new, lambda: None))
        await asyncio.sleep(0)
        seen._take(MOVED)
        await adopting
        assert seen.files is new
        assert [store.primary.at for store in seen.estate.stores if store.primary] == ["anyang"]
        assert seen.digest == estate_digest(seen.estate)

    play(tmp_path, story)


AGENT = """  p: {for: pangyo, at: pangyo, driver: process,
      settings: {agent: "http://127.0.0.1:9", secret: "env:AGENT"}}
"""


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("anyang: {}", "ansan: {}", "the site anyang is gone"),
        ("pangyo: {}, ", "", "the site pangyo, where this controller runs, is gone"),
        ("anyang: {}", "anyang: {role: edge}", "the site anyang is now used for something else"),
        ("endpoints:\n", f"endpoints:\n{AGENT}", "the agent of pangyo has a different address or key"),
        ("tier: 0", "tier: 1", ""),
        ("127.0.0.1:9", "127.0.0.1:10", ""),
    ],
)
def test_what_a_controller_is_built_around_is_not_exchanged(
    old: str, new: str, why: str, tmp_path: Path
) -> None:
    bare = ESTATE.replace("{at: pangyo, mode: primary}, ", "").replace("at: anyang", "at: SITE")
    text = bare.replace(old, new)
    kept = "anyang" if "anyang" in text.partition("services")[0] else "ansan"
    for name, told in (
        ("old.yaml", bare.replace("SITE", "anyang")),
        ("new.yaml", text.replace("SITE", kept)),
    ):
        (tmp_path / name).write_text(told.replace(" mode: sync", " mode: primary"))
    files = [estates.load(tmp_path / name) for name in ("old.yaml", "new.yaml")]
    assert needs_restart(files[0], files[1], "pangyo", watches=True) == why
