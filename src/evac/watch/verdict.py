"""The verdict on every site: a pure function of votes, previous belief and time.

This module owns the truth table and the hysteresis; it knows no probe, store or clock.

The belief about a site from the votes at one instant; the first matching row applies:

    own side: fresh votes of fewer than a quorum of sites             blind     we are the minority
    own side: a quorum says that our own site is down                 blind     we may be the one cut off
    a quorum says down, no one up, the site's own witness votes       cut
    a quorum says down, no one up, some kind of evidence is up        cut
    a quorum says down, no one up, too few kinds are down             doubtful
    a quorum says down, no one up, enough kinds are down              down
    some say down, too few or against others that say up              doubtful
    some say up, no one says down                                     up
    no one says anything but unknown                                  nothing

A quorum is a majority of all sites and at least two, not counting the site being judged. A stale vote, or one
of a witness that doubts itself, counts as unknown. A kind is down when two other sites say so and none says
up. A cut and a loss look alike from outside, so any sign of life makes it a cut.

The belief determines the state:

    down      lost once it held for `confirm_ms`, suspect until then
    cut       isolated
    doubtful  suspect once it lasted `suspect_ms`, else as before
    up        healthy; but what was suspect, isolated or lost must answer for `clear_ms` first
    nothing   unknown
    blind     unknown, at once

If witnesses doubt themselves for a moment (nothing, or doubtful without any answer, at most `suspect_ms`
after the last `down`), a lost site stays lost, and the time that `down` has held pauses. It restarts whenever
anything says up, and after the reader itself slept between two judgements.

A hall is judged by the same table, from the probes in it. A witness reports it down only while it sees
something else at the site: a cut-off or lost site does not make its halls lost. A hall is lost after
`suspect_ms` more than a site needs, so that a burning site is never taken for one of its halls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from evac.model.records import dataclass
from evac.model.run_policy import WatchProfile

Opinion = Literal["up", "down", "unknown"]
EvidenceKind = Literal["user", "data", "member", "agent", "power"]
"""Independent kinds: user: a request as a user makes it. data: a database answered. member: the site's member
of the store answers its peers. agent: the site's agent. power: a BMC or outlet outside the network path.
"""

SiteState = Literal["healthy", "suspect", "lost", "isolated", "unknown"]
"""isolated: the site lives (some evidence says up) but is cut off from the others."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One response, or its absence. took_ms: until the response or the deadline. detail: for people, no
    secrets.
    """

    kind: EvidenceKind
    opinion: Opinion
    took_ms: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """The vote of site `witness` on another site, `target`.

    evidence: one opinion per kind, sorted by kind. since_ms: when this opinion began; at_ms: when it was last
    confirmed, both by the witness's wall clock, for display and to compare clocks only: the reader ages votes
    by its own clock from when they changed. number grows with every publication. The opinion is `unknown` if
    the witness itself is slow or its control probe fails.
    """

    witness: str
    target: str
    opinion: Opinion
    evidence: tuple[tuple[EvidenceKind, Opinion], ...]
    since_ms: int
    at_ms: int
    number: int
    reason: str = ""
    halls: tuple[tuple[str, tuple[tuple[EvidenceKind, Opinion], ...]], ...] = ()
    """Evidence by hall, with "" for probes in no known hall; empty if no hall is known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the quorum believes. since_ms: by the reader's clock. by: supporting witnesses, sorted."""

    site: str
    state: SiteState
    since_ms: int
    by: tuple[str, ...] = ()
    kinds: tuple[EvidenceKind, ...] = ()
    reason: str = ""


Belief = Literal["up", "down", "cut", "doubtful", "nothing", "blind"]
LEAST_QUORUM = 2
CLOCKS_DIFFER_MS = 60_000
"""A vote is written and read within seconds."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote and when its reader last saw `number` change, by the reader's own monotonic clock.

    proven: whether the reader saw it change at all; a vote that was already there may be old.
    """

    vote: Vote
    seen_at_ms: int
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Weighed:
    """The votes on one site at one instant. by: supporting witnesses, sorted.

    answered: whether there is any sign of life.
    """

    belief: Belief
    by: tuple[str, ...] = ()
    kinds: tuple[EvidenceKind, ...] = ()
    reason: str = ""
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A verdict and the state needed for the next judgement. Times by the reader's monotonic clock.

    held_ms: how long the belief has been `down` since anything last said up; down_at_ms: when it last was.
    lost_since_ms: when the site was first believed lost; None once it counted as healthy again.
    """

    verdict: Verdict
    belief: Belief
    belief_since_ms: int
    held_ms: int
    judged_ms: int
    down_at_ms: int | None = None
    lost_since_ms: int | None = None


def quorum_of(sites: Sequence[str]) -> int:
    """A majority of all sites, and at least two."""
    return max(LEAST_QUORUM, len(sites) // 2 + 1)


def still_votes_ms(profile: WatchProfile) -> int:
    """How long silence of a site's own witness means no more than a missed probe."""
    return profile.misses * profile.period_ms + profile.deadline_ms


def weigh(
    site: str, ballots: Iterable[Ballot], sites: Sequence[str], profile: WatchProfile, now_ms: int
) -> Weighed:
    """The belief from fresh votes on one site, wherever they are read. Every vote is of a different
    witness.
    """
    known = frozenset(sites)
    alive = False
    votes: list[Vote] = []
    for ballot in ballots:
        age_ms = now_ms - ballot.seen_at_ms
        if ballot.vote.witness == site:
            alive = alive or age_ms <= still_votes_ms(profile)
        elif (
            ballot.vote.target == site
            and ballot.vote.witness in known
            and ballot.proven
            and age_ms <= profile.vote_ttl_ms
        ):
            votes.append(ballot.vote)
    return _weigh_fresh(site, votes, alive, quorum_of(sites), profile)


def _weigh_fresh(
    site: str, votes: Sequence[Vote], alive: bool, quorum: int, profile: WatchProfile
) -> Weighed:
    downs = tuple(sorted(v.witness for v in votes if v.opinion == "down"))
    ups = tuple(sorted(v.witness for v in votes if v.opinion == "up"))
    living = tuple(sorted({kind for vote in votes for kind, opinion in vote.evidence if opinion == "up"}))
    answered = alive or bool(ups or living)
    if ups and downs:
        said = f"{', '.join(ups)} reports up, {', '.join(downs)} reports down"
        return Weighed("doubtful", downs, (), said, answered)
    if ups:
        return Weighed("up", ups, living, "", answered)
    if not downs:
        return Weighed("nothing", (), (), "no witness can tell", answered)
    if len(downs) < quorum:
        few = f"only {', '.join(downs)} reports down; {quorum} are needed"
        return Weighed("doubtful", downs, (), few, answered)
    if alive:
        return Weighed("cut", downs, living, f"the witness of {site} still votes", answered)
    if living:
        return Weighed("cut", downs, living, f"still answers: {', '.join(living)}", answered)
    dead = _kinds_down(votes)
    if len(dead) < profile.kinds:
        few = f"{len(dead)} kinds of evidence are down; {profile.kinds} are needed"
        return Weighed("doubtful", downs, dead, few, answered)
    return Weighed("down", downs, dead, f"no answer to {', '.join(downs)}", answered)


def _kinds_down(votes: Sequence[Vote]) -> tuple[EvidenceKind, ...]:
    """Kinds that two other sites report down; the caller has checked that nothing is up."""
    said: dict[EvidenceKind, int] = {}
    for vote in votes:
        if vote.opinion != "down":
            continue
        for kind, opinion in vote.evidence:
            if opinion == "down":
                said[kind] = said.get(kind, 0) + 1
    return tuple(sorted(kind for kind, count in said.items() if count >= LEAST_QUORUM))


def judge(
    votes: Iterable[Ballot],
    sites: Sequence[str],
    previous: Mapping[str, Standing],
    profile: WatchProfile,
    now_ms: int,
    own_site: str,
) -> dict[str, Standing]:
    """The verdict on every site, as the controller at `own_site` may believe it at `now_ms`.

    Invariants: no site becomes `lost` without fresh votes of a quorum of other sites on `profile.kinds`
    kinds, nor stays lost for more than `suspect_ms` after them; a vote that changes from down to unknown or
    up never makes a site lost.
    """
    ballots = tuple(votes)
    about: dict[str, list[Ballot]] = {site: [] for site in sites}
    heard: set[str] = set()
    for ballot in ballots:
        vote = ballot.vote
        if ballot.proven and now_ms - ballot.seen_at_ms <= profile.vote_ttl_ms:
            heard.add(vote.witness)
        if vote.target in about:
            about[vote.target].append(ballot)
        if vote.witness in about:
            about[vote.witness].append(ballot)
    weighed = {site: weigh(site, about[site], sites, profile, now_ms) for site in sites}
    why = _own_side(sites, heard, weighed.get(own_site), own_site)
    if why:
        blind = Weighed("blind", (), (), why)
        weighed = {site: weighed[site] if site == own_site and len(heard) > 1 else blind for site in sites}
    return {site: _stand(site, weighed[site], previous.get(site), profile, now_ms) for site in sites}


def judge_halls(
    votes: Iterable[Ballot],
    sites: Sequence[str],
    previous: Mapping[str, Standing],
    profile: WatchProfile,
    now_ms: int,
    believed: Mapping[str, Standing],
) -> dict[str, Standing]:
    """The verdict on every hall in the votes. believed: verdicts on sites from the same votes.

    Invariant: no hall becomes lost without fresh votes of a quorum of other sites that see the rest of its
    site alive, nor while the site is believed to be anything but alive.
    """
    about: dict[str, list[Ballot]] = {}
    for ballot in votes:
        for hall, _ in ballot.vote.halls:
            if hall:
                about.setdefault(hall, []).append(replace(ballot, vote=_of_hall(ballot.vote, hall)))
    slower = replace(profile, confirm_ms=profile.confirm_ms + profile.suspect_ms)
    found: dict[str, Standing] = {}
    for hall, ballots in sorted(about.items()):
        site = ballots[0].vote.target
        state = believed[site].verdict.state if site in believed else "unknown"
        weighed = Weighed("blind" if state == "lost" else "nothing", (), (), f"{site} is {state}")
        if state in ("healthy", "isolated"):
            votes_on_it = (replace(one, vote=replace(one.vote, target=hall)) for one in ballots)
            weighed = weigh(hall, votes_on_it, sites, profile, now_ms)
        found[hall] = _stand(hall, weighed, previous.get(hall), slower, now_ms)
    return found


def silent_sites(opinions: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Sites that every vote reports down, also if too few vote to decide. opinions: (site, what it says)."""
    said: dict[str, set[str]] = {}
    for site, opinion in opinions:
        said.setdefault(site, set()).add(opinion)
    return tuple(sorted(site for site, found in said.items() if found == {"down"}))


def clocks_off(
    ballots: Iterable[Ballot], own_site: str, wall_ms: int, now_ms: int
) -> tuple[dict[str, int], bool]:
    """Sites with a wrong wall clock, by how many ms it is ahead (behind: less than 0), and whether a majority
    of those that vote agrees. If none does, they are compared with this controller's clock, which may be the
    wrong one.

    wall_ms, now_ms: this controller's wall and monotonic clock, read together.
    """
    ahead_ms = {own_site: 0}
    for ballot in ballots:
        vote = ballot.vote
        if ballot.proven and vote.witness != own_site:
            ahead_ms[vote.witness] = vote.at_ms - (wall_ms - (now_ms - ballot.seen_at_ms))
    return apart(ahead_ms)


def apart(ahead_ms: Mapping[str, int]) -> tuple[dict[str, int], bool]:
    """The same for clocks of any parties, by how far each is ahead of this one, which is one of them."""
    found = sorted(ahead_ms.values())
    middle_ms = found[len(found) // 2]
    agreed = 2 * sum(abs(one - middle_ms) <= CLOCKS_DIFFER_MS for one in found) > len(found)
    off = {site: one - (middle_ms if agreed else 0) for site, one in ahead_ms.items()}
    return {site: one for site, one in off.items() if abs(one) > CLOCKS_DIFFER_MS}, agreed


def _of_hall(vote: Vote, hall: str) -> Vote:
    """The part of a site's vote about one of its halls."""
    within = next(evidence for name, evidence in vote.halls if name == hall)
    beside = [evidence for name, evidence in vote.halls if name != hall]
    opinion: Opinion = "unknown"
    if _any_is(within, "up"):
        opinion = "up"
    elif _any_is(within, "down") and any(_any_is(evidence, "up") for evidence in beside):
        opinion = "down"
    evidence = within if opinion != "unknown" else tuple((kind, opinion) for kind, _ in within)
    return replace(vote, opinion=opinion, evidence=evidence)


def _any_is(evidence: Iterable[tuple[EvidenceKind, Opinion]], wanted: Opinion) -> bool:
    return any(opinion == wanted for _, opinion in evidence)


def _own_side(sites: Sequence[str], heard: set[str], own: Weighed | None, own_site: str) -> str:
    """Why this controller may not judge the others; empty when it may."""
    seen = len(heard.intersection(sites))
    if seen < quorum_of(sites):
        return f"only {seen} of {len(sites)} sites have fresh votes: a minority cannot decide"
    if own is not None and own.belief in ("down", "cut"):
        return f"the other sites cannot reach {own_site}, so it cannot judge them"
    return ""


def _stand(
    site: str, weighed: Weighed, before: Standing | None, profile: WatchProfile, now_ms: int
) -> Standing:
    awake = before is not None and now_ms - before.judged_ms <= 2 * profile.period_ms + profile.lag_ms
    past = before if awake else None
    same = past is not None and past.belief == weighed.belief
    since_ms = past.belief_since_ms if past is not None and same else now_ms
    down_at_ms = before.down_at_ms if before is not None and not weighed.answered else None
    doubting = (
        weighed.belief in ("nothing", "doubtful")
        and down_at_ms is not None
        and now_ms - down_at_ms <= profile.suspect_ms
    )
    held_ms = _held_ms(weighed.belief, past, doubting, now_ms)
    state = _state(weighed.belief, before, doubting, held_ms, now_ms - since_ms, profile)
    lost_since_ms = before.lost_since_ms if before is not None else None
    if state == "lost" and lost_since_ms is None:
        lost_since_ms = now_ms
    elif state == "healthy":
        lost_since_ms = None
    kept = before is not None and before.verdict.state == state
    verdict_since_ms = before.verdict.since_ms if before is not None and kept else now_ms
    verdict = Verdict(site, state, verdict_since_ms, weighed.by, weighed.kinds, weighed.reason)
    last_down_ms = now_ms if weighed.belief == "down" else down_at_ms
    return Standing(verdict, weighed.belief, since_ms, held_ms, now_ms, last_down_ms, lost_since_ms)


def _held_ms(belief: Belief, past: Standing | None, doubting: bool, now_ms: int) -> int:
    """How long `down` has held; doubt pauses it for a while, any answer resets it."""
    if past is None:
        return 0
    if belief == "down":
        return past.held_ms + (now_ms - past.judged_ms if past.belief == "down" else 0)
    return past.held_ms if doubting else 0


def _state(
    belief: Belief,
    before: Standing | None,
    doubting: bool,
    held_ms: int,
    lasted_ms: int,
    profile: WatchProfile,
) -> SiteState:
    was: SiteState = before.verdict.state if before is not None else "unknown"
    lost_before = before is not None and before.lost_since_ms is not None
    if belief == "blind":
        return "unknown"
    if belief == "cut":
        return "isolated"
    if belief == "down":
        return "lost" if lost_before or held_ms >= profile.confirm_ms else "suspect"
    if was == "lost" and doubting:
        return "lost"
    if belief == "nothing":
        return "unknown"
    if belief == "doubtful":
        waits = lasted_ms < profile.suspect_ms and was != "lost"
        return was if waits else "suspect"
    cleared = lasted_ms >= profile.clear_ms or (was in ("healthy", "unknown") and not lost_before)
    return "healthy" if cleared else "suspect"
