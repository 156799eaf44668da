"""What the lab reads of a fire from the journals."""

from __future__ import annotations

from typing import Any

from evac_lab.status import unharmed

VERDICT = ["verdict", 12_000, "anyang/hall-1", "lost", {"state": "lost"}]


def loss(about: str = "anyang/hall-1", at_ms: int = 12_500, **data: Any) -> list[Any]:
    return ["loss", at_ms, about, "words", data]


def test_a_fire_for_which_nothing_has_to_move_is_over_without_a_run() -> None:
    found = unharmed([VERDICT, loss(plan="p", steps=0)], "anyang", 10.0)
    assert found is not None
    assert (found.run, found.phase, found.seconds) == ("", "unharmed", {"detected": 2.0})


def test_nothing_else_is_taken_for_it() -> None:
    for other in (loss(run="r"), loss("ansan", steps=0), loss(at_ms=9_000, steps=0), loss(plan="p")):
        assert unharmed([VERDICT, other], "anyang", 10.0) is None
