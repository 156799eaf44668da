"""What steps of each kind have as they are bound, and that no question asks a kind for what it never has."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from evac.derive.stores import observed
from evac.engine.runs.binding import Bound
from evac.engine.stores.stalled_commits import bound_of, plan_to_confirm, rejoins_in
from evac.model.observation import MemberSeen, Observation, Role
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Scenario, lose
from evac.run.view import RunView
from evac.steps.kind import StepKind
from evac.steps.registry import KINDS, kind_of
from tests.unit.engine.messenger import DATABASES, TRAFFIC, bound, estate

SOURCES = Path(__file__).resolve().parents[3] / "src" / "evac"

ONLY_OF: Mapping[str, Callable[[StepKind], bool]] = {
    "data_set": lambda kind: kind.claims_epoch,
    "gate": lambda kind: kind.makes_primary,
    "boot_server": lambda kind: kind.boots,
    "cold": lambda kind: kind.boots,
}
"""Field of a run's step -> kinds whose steps may have it; the others leave it empty."""


def _bound(tmp_path: Path) -> Iterator[Bound]:
    home = estate(tmp_path, DATABASES + TRAFFIC)
    away: dict[str, Role] = {"anyang": "primary", "ansan": "sync", "pangyo": "none"}
    seen = Observation(0, tuple(MemberSeen("messages", site, role) for site, role in away.items()))
    yield bound(home, lose("pangyo"))
    yield bound(home, Scenario("evacuate", ("pangyo",)))
    yield bound(observed(home, seen), Scenario("restore", ("pangyo",)))
    yield bound(observed(home, seen), Scenario("failback", ("pangyo",)))
    data = plan_to_confirm(next(end for end in home.endpoints if end.subject == "messages"), "dc-anyang")
    yield bound_of(data, RunPolicy(), run="r", incident="i", digest="sha256:0")


def test_each_field_is_set_only_for_its_kinds(tmp_path: Path) -> None:
    kinds: set[str] = set()
    for one in _bound(tmp_path):
        for step in one.spec.steps:
            kind = kind_of(step.kind)
            kinds.add(step.kind)
            for field, may in ONLY_OF.items():
                assert may(kind) or not getattr(step, field), (step.id, field)
            assert bool(step.data_set) == kind.claims_epoch, step.id
    assert {"fence", "promote", "rejoin", "protect", "shift"} <= kinds


@pytest.mark.parametrize("phase", ["pending", "ready", "running", "unknown", "succeeded", "failed"])
def test_a_rejoin_as_it_is_bound_holds_a_change_of_its_store_while_it_is_under_way(
    tmp_path: Path, phase: str
) -> None:
    for one in _bound(tmp_path):
        view = RunView(one.spec)
        for i, step in enumerate(view.steps):
            if step.kind == "rejoin":
                before = view.phases[i]
                view.phases[i] = phase  # type: ignore[call-overload]
                found = {one.store for one in rejoins_in(view)}
                assert found == ({"messages"} if phase in ("ready", "running", "unknown") else set())
                view.phases[i] = before


def _asked_together(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Flag of a kind and field of a step that one condition requires of the same step."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And)):
            continue
        flags: list[tuple[str, str]] = []
        fields: list[tuple[str, str]] = []
        for value in node.values:
            if isinstance(value, ast.UnaryOp):
                continue
            for one in ast.walk(value):
                if not isinstance(one, ast.Attribute):
                    continue
                of = ast.unparse(one.value)
                if isinstance(one.value, ast.Call) and of.startswith("kind_of("):
                    flags.append((of.removeprefix("kind_of(").removesuffix(".kind)"), one.attr))
                elif one.attr in ONLY_OF and not isinstance(value, ast.BoolOp):
                    fields.append((of, one.attr))
        yield from ((flag, field) for of, flag in flags for owner, field in fields if owner == of)


def test_no_condition_asks_steps_of_a_kind_for_a_field_that_they_never_have() -> None:
    """Such a condition never holds, so what it guards never happens."""
    never = {
        f"{path.relative_to(SOURCES)}: {flag} and {field}"
        for path in sorted(SOURCES.rglob("*.py"))
        for flag, field in _asked_together(ast.parse(path.read_text(encoding="utf-8")))
        if not any(getattr(kind, flag) and ONLY_OF[field](kind) for kind in KINDS)
    }
    assert never == set()


def test_the_check_finds_such_a_condition() -> None:
    asked = "kind_of(step.kind).joins_epoch and step.data_set == store and view.phases[i] in PHASES"
    assert list(_asked_together(ast.parse(asked))) == [("joins_epoch", "data_set")]
    assert not any(kind.joins_epoch and ONLY_OF["data_set"](kind) for kind in KINDS)
