"""The score of what is known, and the advice on what to add."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from evac.estate import load
from evac.estate.coverage import coverage
from evac.model.coverage import MissingFact
from evac.model.estate import Estate, Service, Store, StoreMember
from tests.unit.estate.large import large_estate

ESTATES = Path(__file__).resolve().parents[2] / "fixtures" / "estates"


def test_an_estate_that_knows_more_scores_higher() -> None:
    first, small = coverage(load(ESTATES / "first")), coverage(load(ESTATES / "small"))
    assert 0 < first.score_permille < 600
    assert 900 < small.score_permille < 1_000


def test_an_empty_estate_knows_nothing() -> None:
    assert coverage(Estate("empty")).score_permille == 0


def test_advice_names_ten_groups_at_most_the_weightiest_first() -> None:
    found = coverage(load(ESTATES / "first")).missing
    assert len(found) == 10
    assert found[0].path == "sites/*/capacity"
    assert found[0].count == 2
    assert len({fact.path for fact in found}) == 10


def test_every_missing_fact_lowers_the_score_and_is_named() -> None:
    estate = load(ESTATES / "small")
    before = coverage(estate)
    changes: dict[str, object] = {
        "people": None,
        "rto_ms": None,
        "tier": None,
        "start_ms": None,
        "owner": None,
    }
    for attribute, value in changes.items():
        services = tuple(
            replace(s, **{attribute: value}) if s.id == "pay" else s  # type: ignore[arg-type]
            for s in estate.services
        )
        after = coverage(replace(estate, services=services))
        assert after.score_permille < before.score_permille
        key = attribute.removesuffix("_ms")
        assert any(fact.path == f"services/pay/{key}" for fact in after.missing)


def test_a_note_for_people_is_no_missing_fact() -> None:
    """No plan uses the number of approvals at one time, so stating it makes no answer better."""
    estate = load(ESTATES / "small")
    limits = replace(estate.limits, approvals_at_once=None)
    assert coverage(replace(estate, limits=limits)) == coverage(estate)


def test_a_share_that_no_one_stated_is_missing_and_one_of_all_replicas_is_not(tmp_path: Path) -> None:
    def missing(values: str) -> bool:
        (tmp_path / "e.yaml").write_text(f"evac: 2\nsites: {{a: {{}}}}\nservices: {{s: {{{values}}}}}\n")
        return any(fact.path.endswith("share") for fact in coverage(load(tmp_path)).missing)

    assert missing("replicas: {a: 3}")
    assert not missing("replicas: {a: 3}, share: 100 %")
    assert not missing("replicas: {a: 3}, share: 50 %")
    assert not missing("replicas: {a: 1}")


def test_how_long_commits_wait_counts_where_a_copy_confirms_them() -> None:
    def found(sync_timeout_ms: int | None) -> tuple[int, list[str]]:
        members = (StoreMember("s", "primary"), StoreMember("t", "sync", lag_ms=0))
        told = coverage(
            Estate(
                "e", stores=(Store("a", "a", "postgresql", members=members, sync_timeout_ms=sync_timeout_ms),)
            )
        )
        return told.score_permille, [fact.path for fact in told.missing]

    known, unknown = found(0), found(None)
    assert known[0] > unknown[0]
    assert "stores/a/sync_timeout" in unknown[1]
    assert "stores/a/sync_timeout" not in known[1]


def test_a_low_tier_weighs_less() -> None:
    def score(tier: int) -> int:
        known = Service("a", tier=0, people=1, rto_ms=1, replicas=1, sites=("s",))
        return coverage(Estate("e", services=(known, Service("b", tier=tier)))).score_permille

    assert score(3) > score(0)


def test_servers_count_but_do_not_drown_the_rest() -> None:
    estate = large_estate(20_000, 1_000, 20)
    before = coverage(estate)
    blind = replace(estate, fleet=replace(estate.fleet, capacity_known=np.zeros((20_000, 4), np.bool_)))
    after = coverage(blind)
    assert before.score_permille - 400 < after.score_permille < before.score_permille
    fact = next(fact for fact in after.missing if fact.path == "servers/capacity")
    assert fact == MissingFact(fact.path, fact.what, fact.why, 20_000, fact.verdicts)
    assert fact.verdicts > 0
