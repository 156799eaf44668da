"""Switch to a changed estate or policy while the controller runs.

The files of estate and policy are checked every few seconds (names, times, sizes), and at once on `look_now`,
which SIGHUP calls. When they differ from the last check, one more check lets them settle. Then they are
copied (`estate_copies`), and the copy is read and checked on a thread: files being written are never read
twice, and the event loop continues. Then:

the same bytes as before      nothing; an earlier problem is cleared
problems                      the estate in use stays; reported with file and line
a change that needs a restart the estate in use stays; reported (`estate_turn.needs_restart`)
a policy that needs one       the estate is used with the policy in use, and that is reported
                              (`estate_turn.policy_waits`)
anything else                 the controller switches in one step, then the link moves, and with it the
                              side processes: war room, alerts, status page

The state is in `standing.json` next to the link, which the war room shows: on the page Now, in
`/v1/situation` and in `/metrics`. Changes are reported as notices: `estate` or `policy` when one was
switched, with both digests, `trouble` when not. The leader's notices go into the journal, which so records
which estate and policy it used, and since when.

Every controller watches the files of its own site. Open runs keep the plan they are bound to, and the policy
they were made under if the new one is less strict (`engine.policies`); a plan of an older estate that was not
proposed yet is refused as stale, and each standby plan is checked again: those that the change does not
affect are kept, if the checker accepts them.

The switch happens in one step of the event loop: everything that plans and runs are made from (`SeenEstate`,
planners, guards, health of services, probes, policies) changes at the same moment, so that nothing mixes two
editions. A restart is needed for what a controller is built around: the voting sites, their roles and agents;
and in the policy how a lost site is recognised, the leases by which members fence themselves, and the
conditions of all standby plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final

from evac import estate as estates
from evac.app.anchoring import agents_of
from evac.app.controlling import Composed, pooled_of
from evac.app.estates.copies import Copies, Edition, Stamp, Standing, words_of
from evac.app.observing import ServiceHealth, probes_of
from evac.app.planner.worker import waivers_of
from evac.engine.clock import Clock
from evac.engine.lead.policies import changes, digest_of
from evac.engine.lead.watch_journal import NoticeKind
from evac.engine.stores.guards import check_mode
from evac.estate.codecs.policy import load_policy
from evac.estate.format.document import read_document
from evac.estate.format.problems import Problems
from evac.model.errors import EstateError, EvacError, NotAllowed
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy


@dataclass(frozen=True, slots=True)
class LoadedEstate:
    """An estate, and the policy next to it."""

    estate: Estate
    policy: RunPolicy


def load(estate: Path, policy: Path | None, as_of: date | None) -> LoadedEstate:
    """Load both. Raises EstateError with every problem."""
    found = estates.load(estate, as_of)
    return LoadedEstate(found, RunPolicy() if policy is None else load_policy(policy, found))


def needs_restart(old: Estate, new: Estate, site: str, watches: bool) -> str:
    """Changes in a new estate that need a restart of that site's controller; empty if there are none.
    watches: it is one of several.
    """
    was, now = ({one.id: one.role for one in estate.sites} for estate in (old, new))
    if watches and site not in now:
        return f"the site {site}, where this controller runs, is gone"
    for words, names in (
        ("gone", was.keys() - now.keys()),
        ("new", now.keys() - was.keys()),
        ("now used for something else", {name for name in was.keys() & now.keys() if was[name] != now[name]}),
    ):
        if names:
            return f"the site {min(names)} is {words}"
    agents, others = ({at: found[0] for at, found in agents_of(one).items()} for one in (old, new))
    changed = {at for at in agents.keys() | others.keys() if agents.get(at) != others.get(at)}
    return f"the agent of {min(changed)} has a different address or key" if changed else ""


def policy_waits(old: RunPolicy, new: RunPolicy) -> str:
    """Changes in a new policy that need a restart; empty if there are none. A policy is switched as a whole:
    if this is not empty, all of it waits.
    """
    if old.profile != new.profile:
        return "the rules for recognising a lost site have changed (watch)"
    for name in sorted({*old.stores, *new.stores}):
        was, now = old.store(name), new.store(name)
        if was.self_fence != now.self_fence or (now.self_fence and was.lease_ttl_ms != now.lease_ttl_ms):
            return f"the lease that {name} fences itself with has changed (stores/{name})"
    waived = set(waivers_of(old)) ^ set(waivers_of(new))
    if waived:
        return (
            f"plans may promote {min(waived)} under a different rule (stores/{min(waived)}: async_promotion)"
        )
    return ""


def check_new_mode(new: RunPolicy, path: Path, quorum: bool, voters: int) -> None:
    """The check at start-up. path: of the policy. Raises NotAllowed, with the place of the mode."""
    try:
        check_mode(new.mode, quorum, voters)
    except NotAllowed as error:
        root = read_document(path.read_text("utf-8"), path.name, Problems())
        assert root is not None  # it was read, and its mode is not the default
        place = root.fields["mode"][1].place
        raise NotAllowed(error.code, f"{place}: {error.message}", error.hint) from error


async def turn(made: Composed, loaded: LoadedEstate, path: Path, use: Callable[[], None]) -> None:
    """Make everything from now on from the new estate and policy. path: where planners read the estate; it
    must not change. use: switches the side processes; if it raises, nothing has changed.
    """
    parts, new, policy = made.controller.parts, loaded.estate, loaded.policy
    pooled = await asyncio.to_thread(pooled_of, new)

    def together() -> None:
        use()
        if policy != parts.desk.policies.now:
            parts.desk.policies.now = policy
            made.seen.rule(policy)
        made.worker.take(path, len(new.fleet))
        parts.desk.guards.pool(pooled)
        if isinstance(parts.desk.health, ServiceHealth):
            parts.desk.health.adopt(new)
        if parts.targets:
            deadline_s = policy.profile.deadline_ms / 1_000
            made.controller.retarget(probes_of(new, made.drivers, deadline_s))

    await made.seen.adopt(new, together)


LOOK_S: Final = 2.0
_AGAIN: Final = "the {} on disk matches the one in use again"
_OF_POLICY: Final = frozenset({"policy-invalid", "mode-needs-quorum", "mode-needs-witness"})
"""Codes of problems that only a policy has."""
Say = Callable[[NoticeKind, str, Mapping[str, Any]], None]


class EstateWatch:
    """The watcher of a running controller. watches: it is one of several controllers."""

    def __init__(
        self,
        copies: Copies,
        made: Composed,
        as_of: date | None,
        clock: Clock,
        *,
        watches: bool,
        look_s: float = LOOK_S,
    ) -> None:
        self._copies, self._made, self._as_of, self._clock = copies, made, as_of, clock
        self._watches, self._look_s = watches, look_s
        self._say: Say = made.controller.say
        self._bell = asyncio.Event()
        self._policies = made.controller.parts.desk.policies
        self._looked: Stamp = ()
        self._done: Stamp = ()
        self._digest, self._waits = copies.used.digest, ""
        now_ms = clock.now_ms()
        self.standing = Standing(now_ms, policy_ms=now_ms)

    def look_now(self) -> None:
        """Someone reports that the files changed."""
        self._bell.set()

    async def run(self) -> None:
        """Run until cancelled. No problem with files ends it."""
        self._write()
        while True:
            asked = False
            try:
                async with asyncio.timeout(self._look_s):
                    asked = await self._bell.wait()
            except TimeoutError:
                pass
            self._bell.clear()
            await self.look(asked)

    async def look(self, at_once: bool = False) -> None:
        """One check. at_once: the files are known to be complete."""
        now = await asyncio.to_thread(self._copies.stamp)
        settled, self._looked = now == self._looked, now
        if at_once or (settled and now != self._done) or not self._copies.whole:
            self._done = now
            await self._take()

    async def _take(self) -> None:
        try:
            edition = await asyncio.to_thread(self._copies.copy)
        except (EvacError, OSError) as error:
            if not isinstance(error, EstateError):  # not caused by the files' content: retried soon
                self._done = ()
            self._refuse(error)
            return
        taken = False
        try:
            if edition.digest == self._digest and self._copies.whole:
                self._well()
            else:
                taken = await self._weigh(edition)
        except (EvacError, OSError) as error:
            self._refuse(error)
        finally:
            if not taken:
                self._copies.drop(edition)

    async def _weigh(self, edition: Edition) -> bool:
        """Decide whether to use this edition from now on. Raises EstateError, OSError."""
        new = await asyncio.to_thread(load, edition.estate, edition.policy, self._as_of)
        site = self._made.controller.parts.site
        why = needs_restart(self._made.seen.files, new.estate, site, self._watches)
        if why:
            self._needs_restart(why)
            return False
        if self._watches and edition.policy is not None:
            voters = len(self._made.controller.parts.sites)
            check_new_mode(new.policy, edition.policy, self._made.store.quorum, voters)
        restart = policy_waits(self._policies.now, new.policy)
        if restart:
            edition = self._copies.with_policy_of(edition, self._copies.used)
            new = await asyncio.to_thread(load, edition.estate, edition.policy, self._as_of)
        await self._turn(edition, new, restart)
        return True

    async def _turn(self, edition: Edition, new: LoadedEstate, restart: str) -> None:
        before, policy = self._made.seen.digest, self._policies.now
        await turn(self._made, new, edition.estate, lambda: self._copies.use(edition))
        self._digest, self._waits = edition.digest, restart
        old, now_ms = self.standing, self._clock.now_ms()
        if self._made.seen.digest != before or new.policy != policy:
            self.standing = Standing(old.taken_ms, policy_ms=old.policy_ms)
        if self._made.seen.digest != before:
            self._changed_estate(before, now_ms)
        if new.policy != policy:
            self._changed_policy(policy, now_ms)
        self._well()
        self._write()

    def _changed_estate(self, before: str, now_ms: int) -> None:
        digest = self._made.seen.digest
        self.standing = replace(self.standing, taken_ms=now_ms)
        words = f"the estate changed from {before[:19]} to {digest[:19]}"
        self._say("estate", words, {"estate": digest, "before": before})

    def _changed_policy(self, old: RunPolicy, now_ms: int) -> None:
        """Also report which runs continue with the policy that they were made under."""
        digest, before = self._policies.digest, digest_of(old)
        keys, held = changes(old, self._policies.now), self._policies.held
        self.standing = replace(self.standing, policy_ms=now_ms)
        words = f"the policy changed ({', '.join(keys)}): from now on {digest[:19]}, before {before[:19]}"
        if held:
            words += f"; where it is looser, it does not apply to {', '.join(held)}"
        data = {"policy": digest, "before": before, "changed": list(keys), "held": list(held)}
        self._say("policy", words, data)

    def _well(self) -> None:
        """The files on disk are in use, except for what waits for a restart."""
        if self._waits:
            self._needs_restart(self._waits, policy=True)
        elif not self.standing.well:
            old = self.standing
            self.standing = Standing(old.taken_ms, policy_ms=old.policy_ms)
            if old.policy:
                self._say("policy", _AGAIN.format("policy"), {"policy": self._policies.digest})
            else:
                self._say("estate", _AGAIN.format("estate"), {"estate": self._made.seen.digest})
            self._write()

    def _refuse(self, error: EvacError | OSError) -> None:
        """Reported once for each set of problems."""
        count, first, placed = _problems(error)
        old = self.standing
        if (old.problems, old.first) == (count, first):
            return
        since_ms = old.since_ms or self._clock.now_ms()
        policy = error.code in _OF_POLICY if isinstance(error, EvacError) else False
        self.standing = Standing(old.taken_ms, count, first, "", since_ms, old.policy_ms, policy, placed)
        code = "estate-reload" if isinstance(error, OSError) else error.code
        self._trouble({"code": code, "problems": count, "first": first})

    def _needs_restart(self, why: str, policy: bool = False) -> None:
        old = self.standing
        if old.restart == why and not old.problems:
            return
        since_ms = old.since_ms or self._clock.now_ms()
        self.standing = Standing(old.taken_ms, 0, "", why, since_ms, old.policy_ms, policy)
        self._trouble({"code": "policy-restart" if policy else "estate-restart", "why": why})

    def _trouble(self, data: Mapping[str, Any]) -> None:
        self._say("trouble", words_of(self.standing), data)
        self._write()

    def _write(self) -> None:
        try:
            self._copies.say(self.standing)
        except OSError as error:
            words = f"cannot show the state of the estate on disk: {error.strerror or error}"
            self._say("trouble", words, {"code": "estate-reload"})


def _problems(error: EvacError | OSError) -> tuple[int, str, bool]:
    """Number of problems, the first one with its place, and whether that has a line."""
    if isinstance(error, EstateError):
        errors = [one for one in error.diagnostics if one.severity == "error"]
        if errors:
            first = min(errors, key=lambda one: one.sort_key)
            return len(errors), f"{first.place}: {first.message}", first.place.line > 0
    if isinstance(error, EvacError):
        return 1, error.message, False
    name = f"{error.filename}: " if error.filename else ""
    return 1, f"{name}{error.strerror or type(error).__name__}", False
