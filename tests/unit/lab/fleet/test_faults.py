"""Faults: who has which, by shares and seed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from evac.model.errors import InvalidInput
from evac_lab.fleet.ground import DEFAULT_SHARES, FAULTS, Shares, code_of, draw, read_shares


def test_the_default_shares_of_32_000() -> None:
    counts = np.bincount(draw(32_000, Shares(DEFAULT_SHARES), 1), minlength=len(FAULTS))
    named = {fault: int(count) for fault, count in zip(FAULTS, counts, strict=True) if count}
    assert named == {"none": 30_816, "dead": 640, "slow": 320, "boot-loop": 160, "wrong-serial": 64}


def test_the_seed_decides() -> None:
    shares = Shares({"dead": 0.1})
    assert (draw(1_000, shares, 1) == draw(1_000, shares, 1)).all()
    assert (draw(1_000, shares, 1) != draw(1_000, shares, 2)).any()


def test_shares_are_read_from_words() -> None:
    assert read_shares("dead=2%, slow=0.01") == {"dead": 0.02, "slow": 0.01}
    assert read_shares("none") == {}


@pytest.mark.parametrize("words", ["tired=1%", "dead", "dead=much", "dead=150%", "dead=60%,slow=60%"])
def test_shares_that_make_no_sense_are_refused(words: str) -> None:
    with pytest.raises(InvalidInput):
        Shares(read_shares(words))


def test_the_guide_says_what_every_fault_does() -> None:
    page = (Path(__file__).parents[4] / "docs" / "how-to" / "simulate-a-fleet.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} >= set(FAULTS) - {"none"}
    assert code_of("none") == 0
