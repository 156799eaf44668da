"""Names that a reader takes for each other are one person's; others are not."""

from __future__ import annotations

import pytest

from evac.model.names import alike


@pytest.mark.parametrize(
    "other",
    [
        "Kim Lee",
        " kim  lee",
        "kim\u00a0lee",
        "ｋｉｍ ｌｅｅ",
        "kim\u200b lee\u2060",
        "\u202ekim lee",
        "kіm lее",
        "ΚΙΜ lee",
        "KIM LEE",
        "кım lee",
    ],
)
def test_names_that_look_the_same_are_one(other: str) -> None:
    assert alike(other) == alike("kim lee")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("kim", "kin"),
        ("José", "Jose"),
        ("김민준", "김민준2"),
        ("राम", "रमा"),
        ("sam1", "saml"),
        ("user0", "usero"),
        ("Николай", "Nikolaj"),
    ],
)
def test_names_that_differ_stay_apart(one: str, other: str) -> None:
    assert alike(one) != alike(other)


@pytest.mark.parametrize("name", ["김민준", "Νίκος", "Straße", "İpek", "ﬁona", "Ҥ"])
def test_case_and_repetition_make_no_difference(name: str) -> None:
    assert alike(alike(name)) == alike(name) == alike(name.upper()) == alike(name.lower())
