"""The truth table of the verdict, its hysteresis, and what never happens whatever the votes say."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.model.run_policy import PROFILES, WatchProfile
from evac.watch.verdict import (
    Ballot,
    EvidenceKind,
    Opinion,
    Standing,
    Vote,
    clocks_off,
    judge,
    quorum_of,
    still_votes_ms,
    weigh,
)

SITES = ("anyang", "ansan", "pangyo")
FIVE = ("anyang", "ansan", "pangyo", "sejong", "chuncheon")
FAST = PROFILES["fast"]
LAB = PROFILES["lab"]
ALL_DOWN: dict[EvidenceKind, Opinion] = {"user": "down", "data": "down", "member": "down"}
ALL_UP: dict[EvidenceKind, Opinion] = {"user": "up", "data": "up", "member": "up"}


def ballot(
    witness: str,
    target: str,
    opinion: Opinion,
    evidence: dict[EvidenceKind, Opinion] | None = None,
    seen_at_ms: int = 0,
    proven: bool = True,
) -> Ballot:
    if evidence is None:
        evidence = {"up": ALL_UP, "down": ALL_DOWN, "unknown": {}}[opinion]
    pairs = tuple(sorted(evidence.items()))
    return Ballot(Vote(witness, target, opinion, pairs, 0, 0, 1), seen_at_ms, proven)


def down(witness: str, target: str = "pangyo", **more: object) -> Ballot:
    return ballot(witness, target, "down", **more)  # type: ignore[arg-type]


def belief(votes: list[Ballot], sites: tuple[str, ...] = SITES, now_ms: int = 0) -> str:
    return weigh("pangyo", votes, sites, FAST, now_ms).belief


UP, UNKNOWN = ballot("ansan", "pangyo", "up"), ballot("ansan", "pangyo", "unknown")
TRUTH_TABLE = [
    ("all see it", [ballot("anyang", "pangyo", "up"), UP], "up"),
    (
        "one sees it, one cannot say",
        [ballot("anyang", "pangyo", "up"), UNKNOWN],
        "up",
    ),
    ("a cut to one of them", [ballot("anyang", "pangyo", "up"), down("ansan")], "doubtful"),
    ("one says down, one cannot say", [down("anyang"), ballot("ansan", "pangyo", "unknown")], "doubtful"),
    ("one says down, one is silent", [down("anyang")], "doubtful"),
    (
        "nobody can say",
        [ballot("anyang", "pangyo", "unknown"), UNKNOWN],
        "nothing",
    ),
    ("nobody votes", [], "nothing"),
    ("both say down on three kinds", [down("anyang"), down("ansan")], "down"),
    (
        "both say down on one kind",
        [down("anyang", evidence={"user": "down"}), down("ansan", evidence={"user": "down"})],
        "doubtful",
    ),
    (
        "two kinds, but each of one site only",
        [
            down("anyang", evidence={"user": "down", "data": "down"}),
            down("ansan", evidence={"user": "down", "member": "down"}),
        ],
        "doubtful",
    ),
    (
        "users get nothing, the agent answers one of them",
        [down("anyang"), down("ansan", evidence=ALL_DOWN | {"agent": "up"})],
        "cut",
    ),
    (
        "all is dark, but its own witness still votes",
        [down("anyang"), down("ansan"), ballot("pangyo", "anyang", "down")],
        "cut",
    ),
    (
        "a site does not count as its own witness",
        [down("anyang"), down("pangyo", seen_at_ms=-60_000)],
        "doubtful",
    ),
    ("a stranger does not count", [down("anyang"), down("busan")], "doubtful"),
    (
        "a vote only found there does not count",
        [down("anyang"), down("ansan", proven=False)],
        "doubtful",
    ),
]


@pytest.mark.parametrize(
    ("votes", "expected"), [row[1:] for row in TRUTH_TABLE], ids=[row[0] for row in TRUTH_TABLE]
)
def test_truth_table(votes: list[Ballot], expected: str) -> None:
    assert belief(votes) == expected


def test_a_stale_vote_is_unknown() -> None:
    votes = [down("anyang"), down("ansan")]
    assert belief(votes, now_ms=FAST.vote_ttl_ms) == "down"
    assert belief(votes, now_ms=FAST.vote_ttl_ms + 1) == "nothing"


def test_a_dead_witness_stops_to_be_a_sign_of_life_after_its_misses() -> None:
    votes = [
        down("anyang", seen_at_ms=9_000),
        down("ansan", seen_at_ms=9_000),
        ballot("pangyo", "ansan", "up"),
    ]
    silent_ms = still_votes_ms(FAST)
    assert weigh("pangyo", votes, SITES, FAST, silent_ms).belief == "cut"
    assert weigh("pangyo", votes, SITES, FAST, silent_ms + 1).belief == "down"


def test_quorum_is_a_majority_and_never_one() -> None:
    assert [quorum_of(tuple(str(i) for i in range(n))) for n in range(1, 7)] == [2, 2, 2, 3, 3, 4]


def _states(votes: list[Ballot], own: str = "ansan", profile: WatchProfile = LAB) -> dict[str, str]:
    sites = SITES
    standings = judge(votes, sites, {}, profile, 0, own)
    return {site: standing.verdict.state for site, standing in standings.items()}


def test_two_sites_can_never_lose_one() -> None:
    standings = judge([down("anyang")], ("anyang", "pangyo"), {}, LAB, 0, "anyang")
    assert {standing.verdict.state for standing in standings.values()} == {"unknown"}


def test_a_lone_site_believes_nothing_of_the_others() -> None:
    lone = [down("ansan", "pangyo"), down("ansan", "anyang")]
    assert _states(lone) == {"anyang": "unknown", "ansan": "unknown", "pangyo": "unknown"}


def test_a_site_that_the_others_do_not_reach_says_nothing_of_them() -> None:
    votes = [
        down("anyang", "ansan"),
        down("pangyo", "ansan"),
        ballot("ansan", "pangyo", "down"),
        ballot("ansan", "anyang", "down"),
        down("anyang", "pangyo"),
        ballot("pangyo", "anyang", "up"),
    ]
    assert _states(votes) == {"anyang": "unknown", "ansan": "isolated", "pangyo": "unknown"}


def test_two_of_five_sites_down_at_once_are_both_lost() -> None:
    rest = ("anyang", "ansan", "sejong")
    votes = [down(witness, target) for witness in rest for target in ("pangyo", "chuncheon")]
    votes += [ballot(w, t, "up") for w in rest for t in rest if w != t]
    standings = judge(votes, FIVE, {}, LAB, 0, "ansan")
    assert {site for site, s in standings.items() if s.verdict.state == "lost"} == {"pangyo", "chuncheon"}


def test_two_of_three_sites_down_at_once_are_never_lost() -> None:
    votes = [down("ansan", "pangyo"), down("ansan", "anyang")]
    assert "lost" not in _states(votes).values()


class _Reader:
    """Judges round after round with a clock that moves on by one period."""

    def __init__(self, profile: WatchProfile) -> None:
        self.profile, self.now_ms = profile, 0
        self.standings: dict[str, Standing] = {}

    def rounds(self, count: int, *opinions: Opinion) -> str:
        """Witnesses in anyang and ansan say this of pangyo for some rounds; the last state."""
        for _ in range(count):
            self.now_ms += self.profile.period_ms
            votes = [
                ballot(witness, "pangyo", opinion, seen_at_ms=self.now_ms)
                for witness, opinion in zip(("anyang", "ansan"), opinions, strict=True)
            ]
            self.standings = judge(votes, SITES, self.standings, self.profile, self.now_ms, "ansan")
        return self.standings["pangyo"].verdict.state


def test_healthy_suspect_lost_suspect_healthy() -> None:
    reader = _Reader(FAST)
    assert reader.rounds(3, "up", "up") == "healthy"
    assert reader.rounds(1, "down", "down") == "suspect"
    assert reader.rounds(9, "down", "down") == "suspect"
    assert reader.rounds(1, "down", "down") == "lost"
    since = reader.standings["pangyo"].lost_since_ms
    assert reader.rounds(1, "up", "up") == "suspect"
    assert reader.rounds(1, "down", "down") == "lost", "what was not cleared needs no second confirmation"
    assert reader.standings["pangyo"].lost_since_ms == since, "and is the same loss"
    assert reader.rounds(30, "up", "up") == "suspect"
    assert reader.rounds(1, "up", "up") == "healthy"
    assert reader.rounds(1, "down", "down") == "suspect"


def test_a_moment_of_doubt_does_not_begin_the_confirmation_anew() -> None:
    reader = _Reader(FAST)
    reader.rounds(3, "up", "up")
    reader.rounds(8, "down", "down")
    reader.rounds(2, "down", "unknown")
    assert reader.rounds(2, "down", "down") == "suspect"
    assert reader.rounds(2, "down", "down") == "lost"
    assert reader.rounds(2, "unknown", "unknown") == "lost"
    assert reader.rounds(3, "unknown", "unknown") == "unknown"


def test_a_long_doubt_does() -> None:
    reader = _Reader(FAST)
    reader.rounds(9, "down", "down")
    reader.rounds(5, "down", "unknown")
    assert reader.rounds(10, "down", "down") == "suspect"
    assert reader.rounds(1, "down", "down") == "lost"


def test_a_reader_that_slept_believes_nothing_of_the_time_it_slept() -> None:
    reader = _Reader(FAST)
    reader.rounds(2, "down", "down")
    reader.now_ms += FAST.confirm_ms
    assert reader.rounds(1, "down", "down") == "suspect"


def test_a_cut_of_one_witness_is_suspect_only_after_a_while_and_never_lost() -> None:
    reader = _Reader(FAST)
    reader.rounds(3, "up", "up")
    assert reader.rounds(3, "up", "down") == "healthy"
    assert reader.rounds(1, "up", "down") == "suspect"
    assert reader.rounds(100, "up", "down") == "suspect"


OPINIONS = st.sampled_from(["up", "down", "unknown"])
KINDS = st.sampled_from(["user", "data", "member", "agent", "power"])
EVIDENCE = st.dictionaries(KINDS, OPINIONS, max_size=5)
PROFILE = st.sampled_from(
    [PROFILES["lab"], PROFILES["fast"], replace(PROFILES["fast"], confirm_ms=0, kinds=3)]
)
SITE_LISTS = st.sampled_from([SITES, FIVE])


@st.composite
def ballots(draw: st.DrawFn, sites: tuple[str, ...]) -> list[Ballot]:
    made = []
    for witness in sites:
        for target in sites:
            if witness != target and draw(st.booleans()):
                opinion, evidence = draw(OPINIONS), draw(EVIDENCE)
                age_ms = draw(st.sampled_from([0, 100, 3_000, 20_000]))
                made.append(ballot(witness, target, opinion, evidence, -age_ms, draw(st.booleans())))
    return made


WORTH = {"up": 0, "unknown": 1, "down": 2}


@given(data=st.data(), sites=SITE_LISTS, profile=PROFILE)
@settings(max_examples=400, deadline=None)
def test_never_lost_without_two_other_sites_and_enough_kinds(
    data: st.DataObject, sites: tuple[str, ...], profile: WatchProfile
) -> None:
    votes = data.draw(ballots(sites))
    own = data.draw(st.sampled_from(sites))
    for site, standing in judge(votes, sites, {}, profile, 0, own).items():
        if standing.verdict.state != "lost":
            continue
        carried = [
            b.vote
            for b in votes
            if b.vote.target == site
            and b.proven
            and -b.seen_at_ms <= profile.vote_ttl_ms
            and b.vote.opinion == "down"
        ]
        assert len({vote.witness for vote in carried} - {site}) >= quorum_of(sites) >= 2
        kinds = [
            kind
            for kind in ("user", "data", "member", "agent", "power")
            if sum((kind, "down") in vote.evidence for vote in carried) >= 2
        ]
        assert len(kinds) >= profile.kinds


@given(data=st.data(), sites=SITE_LISTS, profile=PROFILE)
@settings(max_examples=400, deadline=None)
def test_less_dark_is_never_more_lost(
    data: st.DataObject, sites: tuple[str, ...], profile: WatchProfile
) -> None:
    """A vote, or one kind of its evidence, that turns towards up makes no site of the same round lost."""
    votes = data.draw(ballots(sites))
    if not votes:
        return
    index = data.draw(st.integers(0, len(votes) - 1))
    old = votes[index].vote
    lighter = data.draw(OPINIONS.filter(lambda opinion: WORTH[opinion] <= WORTH[old.opinion]))
    evidence = tuple(
        (kind, data.draw(OPINIONS.filter(lambda o, said=said: WORTH[o] <= WORTH[said])))
        for kind, said in old.evidence
    )
    changed = list(votes)
    changed[index] = replace(votes[index], vote=replace(old, opinion=lighter, evidence=evidence))
    for site in sites:
        before = weigh(site, votes, sites, profile, 0).belief
        after = weigh(site, changed, sites, profile, 0).belief
        assert after != "down" or before == "down"


@given(runs=st.lists(st.tuples(st.integers(1, 10), st.integers(1, 3)), max_size=12))
@settings(max_examples=100, deadline=None)
def test_flapping_inside_the_hysteresis_is_never_a_loss(runs: list[tuple[int, int]]) -> None:
    reader = _Reader(FAST)
    for dark, bright in runs:
        assert reader.rounds(dark, "down", "down") != "lost"
        assert reader.rounds(bright, "up", "down") != "lost"


@given(st.permutations(FIVE), st.integers(100_000, 10**10), st.sampled_from((-1, 1)), st.integers(0, 2))
def test_the_clocks_that_most_do_not_agree_with_are_named(
    order: list[str], by_ms: int, sign: int, wrong: int
) -> None:
    """By whichever controller compares them, also one whose own clock is wrong; a vote is seen some ms after
    it was made, by a clock that is not the one it was made by.
    """
    off = {site: sign * by_ms * (i < wrong) for i, site in enumerate(order)}
    for own in FIVE:
        votes = [
            Ballot(Vote(site, "pangyo", "up", (), 0, 10**12 + 5_000 + off[site], 1), 5_000 + seen_ms)
            for site, seen_ms in zip(FIVE, (0, 40, 900, 2_000, 10_000), strict=True)
        ]
        found, agreed = clocks_off(votes, own, 10**12 + 9_000 + off[own], 9_000)
        assert agreed
        assert found.keys() == {site for site in FIVE if off[site]}
        assert all(abs(found[site] - off[site]) <= 20_000 for site in found)


def test_clocks_of_which_no_most_agree_are_compared_with_its_own() -> None:
    vote = Ballot(Vote("ansan", "pangyo", "up", (), 0, 3_600_000, 1), 0)
    assert clocks_off([vote], "anyang", 0, 0) == ({"ansan": 3_600_000}, False)
    old = replace(vote, proven=False)
    assert clocks_off([old], "anyang", 0, 0) == ({}, True), "how old it is, is not known"
