"""Every kind of step has a colour in charts, on pages and in reports: a bar without one is drawn black."""

from __future__ import annotations

import re
from importlib import resources
from typing import get_args

import pytest

from evac.steps.kind import Colour, StepKind
from evac.steps.registry import KINDS, kind_of
from evac.views.live_charts import LEGEND

SHEETS = {
    "pages": resources.files("evac.web").joinpath("static", "evac.css"),
    "reports": resources.files("evac.views").joinpath("templates", "report.css"),
}


def coloured(sheet: str) -> set[str]:
    """Classes that some rule of the sheet fills, in charts or in all of a page."""
    found: set[str] = set()
    for selectors in re.findall(r"([^{};]+)\{[^{}]*\bfill:", SHEETS[sheet].read_text(encoding="utf-8")):
        found |= set(re.findall(r"(?:^|,)\s*(?:\.chart )?(?:rect)?\.([\w-]+)\s*(?=,|$)", selectors.strip()))
    return found


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_has_a_colour_that_charts_of_plans_fill(kind: StepKind, sheet: str) -> None:
    assert kind.colour in coloured(sheet)


@pytest.mark.parametrize("colour", get_args(Colour))
def test_charts_of_runs_fill_every_colour(colour: str) -> None:
    assert f"f-{colour}" in coloured("pages")


def test_kinds_that_do_the_same_have_the_same_colour_and_the_legend_names_it() -> None:
    assert {
        kind_of(name).colour for name in ("promote", "restore", "elect", "unprotect", "force-quorum")
    } == {"promote"}
    assert kind_of("stop").colour == kind_of("shed").colour == "shed"
    assert kind_of("redirect").colour == kind_of("shift").colour == "shift"
    assert {colour for colour, _ in LEGEND} <= set(get_args(Colour))
