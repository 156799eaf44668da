"""What the votes say of each site, by the rule that the controllers follow, as the war room reads them.

A room in a site that is cut off believes nothing, like the controller there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evac.engine.clock import Clock
from evac.engine.lead.verdict_answers import VoteReader
from evac.model.run_policy import WatchProfile
from evac.office.values import SiteSeen, Standing, VoteSeen
from evac.store.port import Store
from evac.watch.verdict import Ballot, judge
from evac.watch.verdict import Standing as Judged

LEAST_S: Final = 0.5


class Ballots:
    """Reads votes and judges. `follow` says of which sites, and how fast to believe."""

    def __init__(self, store: Store, clock: Clock, profile: WatchProfile, site: str) -> None:
        self._store, self._clock, self._site = store, clock, site
        self._profile = profile
        self._sites: tuple[tuple[str, str], ...] = ()
        self._reader = VoteReader(store, clock, profile)
        self._standings: dict[str, Judged] = {}
        self._since_ms: dict[str, tuple[str, int]] = {}

    def follow(self, profile: WatchProfile, sites: Sequence[tuple[str, str]]) -> None:
        """sites: (id, role). The profile decides when silence counts."""
        self._sites = tuple(sites)
        if profile != self._profile:
            self._profile = profile
            self._reader = VoteReader(self._store, self._clock, profile)

    @property
    def period_s(self) -> float:
        return max(LEAST_S, self._profile.period_ms / 1_000)

    async def read(self) -> None:
        """Raises Unavailable; then what was read before grows older."""
        await self._reader.refresh()

    def judge(self) -> bool:
        """Judges anew; whether any state, reason or vote may look different."""
        names = [site for site, _ in self._sites]
        before = self._standings
        self._standings = judge(
            self._reader.ballots, names, before, self._profile, self._clock.monotonic_ms(), self._site
        )
        return bool(names)

    def voting(self) -> tuple[str, ...]:
        """Sites whose witness has a fresh vote."""
        fresh = {ballot.vote.witness for ballot in self._reader.ballots if self._is_fresh(ballot)}
        return tuple(sorted(fresh.intersection(site for site, _ in self._sites)))

    def sites(self, marks: Mapping[str, str]) -> tuple[SiteSeen, ...]:
        """Every site with its verdict, in the order of their names."""
        ballots = self._reader.ballots
        found = []
        for site, role in self._sites:
            votes = sorted((b for b in ballots if b.vote.target == site), key=lambda b: b.vote.witness)
            state, reason, by, kinds = self._verdict(site, bool(ballots))
            found.append(
                SiteSeen(
                    site,
                    role,
                    state,
                    self._since(site, state),
                    reason,
                    by,
                    kinds,
                    marks.get(site, ""),
                    tuple(self._vote(ballot) for ballot in votes),
                )
            )
        return tuple(found)

    def _verdict(self, site: str, watched: bool) -> tuple[Standing, str, tuple[str, ...], tuple[str, ...]]:
        judged = self._standings.get(site)
        if not watched or judged is None:
            return "unwatched", "no witness votes", (), ()
        verdict = judged.verdict
        return verdict.state, verdict.reason, verdict.by, verdict.kinds

    def _since(self, site: str, state: str) -> int:
        """Since when this process has seen the state."""
        known = self._since_ms.get(site)
        if known is None or known[0] != state:
            known = self._since_ms[site] = (state, self._clock.now_ms())
        return known[1]

    def _vote(self, ballot: Ballot) -> VoteSeen:
        vote = ballot.vote
        return VoteSeen(
            vote.witness,
            vote.opinion,
            self._is_fresh(ballot),
            vote.since_ms,
            vote.reason,
            dict(vote.evidence),
        )

    def _is_fresh(self, ballot: Ballot) -> bool:
        age_ms = self._clock.monotonic_ms() - ballot.seen_at_ms
        return ballot.proven and age_ms <= self._profile.vote_ttl_ms
