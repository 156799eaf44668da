"""Plans as files: the published shape, round trips, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from evac import __version__
from evac.estate.codecs import plan as plan_codec
from evac.model.digest import written
from evac.model.errors import PlanError
from evac.model.instance import LeftOff
from evac.model.plan import Certificate, Plan
from evac.model.reason import OffReason, Reason
from evac.views.json_out import PLAN_SCHEMA
from tests.unit.planning.instances import worked_example
from tests.unit.verify.worked_plan import worked_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return replace(
        worked_plan(worked_example()), certificate=Certificate(arcs=(("a.base", "b.base", 2**70),))
    )


@pytest.fixture
def document(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan_codec.encode(plan))
    return found


def test_a_plan_comes_back_as_it_was(plan: Plan) -> None:
    data = plan_codec.encode(plan)
    assert plan_codec.encode(plan_codec.decode(data)) == data
    assert plan_codec.decode(data).certificate == plan.certificate


def test_reasons_are_data_and_words_and_earlier_files_have_words_only(plan: Plan) -> None:
    why = Reason("loss-above-rpo", store="ledger", site="guro", backup=True)
    outcomes = (replace(plan.outcomes[0], state="unplaced", why=why), *plan.outcomes[1:])
    plan = replace(plan, outcomes=outcomes, planner_version=__version__)
    data = plan_codec.encode(plan)
    assert plan_codec.decode(data).outcomes == outcomes
    document = json.loads(data)
    jsonschema.validate(document, PLAN_SCHEMA)
    row = document["services"][0]
    assert row["why"] == {"backup": True, "kind": "loss-above-rpo", "site": "guro", "store": "ledger"}
    assert row["reason"] == why.words == document["unplaced"][0]["reason"]

    row["reason"] = document["unplaced"][0]["reason"] = "worded by another version"
    with pytest.raises(PlanError, match="contradicts itself"):
        plan_codec.decode(written(document))
    reworded = plan_codec.decode(written(document | {"planner_version": "0.0.9"}))
    assert reworded.outcomes[0].reason == why.words
    with pytest.raises(PlanError, match="contradicts itself"):
        plan_codec.decode(written(document | {"planner_version": "0.0.9", "unplaced": []}))
    row["reason"] = document["unplaced"][0]["reason"] = why.words

    del row["why"]
    earlier = written(document) + b"\n"
    read = plan_codec.decode(earlier)
    assert read.outcomes[0].why == Reason("text", text=why.words)
    assert plan_codec.encode(read) == earlier

    row["why"] = {"kind": "needs"}
    with pytest.raises(PlanError, match="names no service"):
        plan_codec.decode(written(document))
    row["why"] = {"kind": "needs", "services": ["pay"]}
    with pytest.raises(PlanError, match="contradicts itself"):
        plan_codec.decode(written(document))


def test_why_servers_stay_off_is_data_and_earlier_files_have_words_only(plan: Plan) -> None:
    why = OffReason("above-inrush-limit", "pangyo/feed-a", 800, 700)
    left_off = (LeftOff("pangyo", why, ("a1", "a2")),)
    data = plan_codec.encode(replace(plan, left_off=left_off, planner_version=__version__))
    assert plan_codec.decode(data).left_off == (LeftOff("pangyo", why, ("a1", "a2")),)
    (row,) = (document := json.loads(data))["left_off"]
    assert row["reason"] == "the inrush alone would be 800 W, but pangyo/feed-a tolerates only 700 W"
    assert row["why"]["watts"] == 800

    row["why"]["watts"] = 900
    with pytest.raises(PlanError, match="contradicts itself"):
        plan_codec.decode(written(document))
    del row["why"]
    earlier = written(document) + b"\n"
    read = plan_codec.decode(earlier)
    assert read.left_off[0].why == OffReason("text", text=row["reason"])
    assert plan_codec.encode(read) == earlier


def test_the_shape_is_the_published_one(document: dict[str, Any]) -> None:
    jsonschema.validate(document, PLAN_SCHEMA)
    assert document["objective"] == 2_146_000_000
    assert document["lost"] == ["pangyo"]
    assert document["shed"] == [{"service": "ads", "replicas": 2}]
    assert {"service": "pay", "server": "a2", "count": 1} in document["placements"]
    step = next(s for s in document["steps"] if s["id"] == "shift:pay")
    assert (step["start_ms"], step["duration_ms"], step["uses"]) == (230_000, 60_000, {"dns": 1})
    restored = {row["service"]: row["restored_ms"] for row in document["services"]}
    assert restored == {
        "ads": None,
        "identity": 150_000,
        "messenger": 250_000,
        "pay": 290_000,
        "search": 130_000,
    }


def test_the_bytes_are_canonical(plan: Plan) -> None:
    data = plan_codec.encode(plan).decode()
    again = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert data == again + "\n"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d.pop("steps"), "plan-invalid"),
        (lambda d: d.update(objective="many"), "plan-invalid"),
        (lambda d: d.update(objective=d["objective"] + 1), "plan-invalid"),
        (lambda d: d.update(stranger=1), "plan-invalid"),
        (lambda d: d["steps"][0].update(kind="fly"), "plan-invalid"),
        (lambda d: d["steps"][0].update(start_ms=None), "plan-invalid"),
        (lambda d: d.update(steps=7), "plan-invalid"),
        (lambda d: d.update(steps=[None]), "plan-invalid"),
        (lambda d: d["steps"][0].update(uses=[]), "plan-invalid"),
        (lambda d: d.update(tier_weights=[]), "plan-invalid"),
        (lambda d: d.update(tier_weights=[10**40]), "plan-invalid"),
        (lambda d: d.update(tier_weights=[-1]), "plan-invalid"),
        (lambda d: d["services"][0].update(restored_ms=1), "plan-inconsistent"),
        (lambda d: d["placements"].pop(), "plan-inconsistent"),
        (lambda d: d.update(schema_version=2), "plan-version"),
        (lambda d: d.update(kind="poem"), "plan-format"),
    ],
)
def test_a_changed_file_is_refused(document: dict[str, Any], change: Any, code: str) -> None:
    change(document)
    with pytest.raises(PlanError) as caught:
        plan_codec.decode(json.dumps(document).encode())
    assert caught.value.code == code
    assert caught.value.hint
    assert "Error" not in caught.value.message
    assert "' object " not in caught.value.message


def test_what_evac_wrote_itself_is_read_the_same_and_every_other_mistake_is_still_found(
    document: dict[str, Any],
) -> None:
    data = json.dumps(document).encode()
    assert plan_codec.decode(data, own=True) == plan_codec.decode(data)
    document.update(tier_weights=[-1])
    with pytest.raises(PlanError):
        plan_codec.decode(json.dumps(document).encode(), own=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "byte 1 is not UTF-8 text"),
        (b'{"bound":' + b"9" * 5_000 + b"}", "a number with thousands of digits"),
        (b'{"bound":NaN}', "NaN is not an integer"),
        (b"[]", "not an evac plan"),
        (b'{"kind":"evac-plan","shed":[],"shed":[]}', "the key 'shed' appears twice"),
        (b'{"steps":[{"id":"a","id":"b"}]}', "the key 'id' appears twice"),
        (b"evac: 1\nsites: {a: {}}\n", "not JSON"),
        (b"[" * 200_000, "nested deeper"),
    ],
)
def test_what_is_no_plan_says_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_codec.decode(data)
    assert words in caught.value.message
    assert "sys." not in caught.value.message
    assert "evac plan" in caught.value.hint


def test_floats_and_depth_are_refused() -> None:
    for data in (b'{"kind":"evac-plan","schema_version":1.0}', b"[" * 50 + b"]" * 50):
        with pytest.raises(PlanError):
            plan_codec.decode(data)
