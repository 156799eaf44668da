"""Names that a reader takes for each other are one person's; others are not."""

from __future__ import annotations

import pytest

from evac.engine.runs import requests
from evac.model.errors import RunError
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


DEFAULT_IGNORABLE = (
    "AD 34F 61C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 "
    "FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
)
"""Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, version 15.0."""


def ignorable() -> list[str]:
    ends = [part.partition("-") for part in DEFAULT_IGNORABLE.split()]
    return [chr(code) for a, _, z in ends for code in range(int(a, 16), int(z or a, 16) + 1)]


def test_no_invisible_character_makes_another_person() -> None:
    """At the start, inside, between a letter and its accent, at the end. Nobody asks under such a name."""
    assert len(ignorable()) > 4_000
    wrong = []
    for one in ignorable():
        names = (
            f"{one}josé lee",
            f"jo{one}sé lee",
            f"jose{one}\u0301 lee",
            f"josé {one} lee",
            f"josé lee{one}",
        )
        asked = requests.Request("1", "pause", f"jo{one}sé", "fire")
        try:
            requests.decode("runs/r/requests/1", requests.encode(asked))
        except RunError as error:
            refused = error.code == "request-unreadable"
        else:
            refused = False
        if not refused or {alike(name) for name in names} != {alike("josé lee")}:
            wrong.append(f"{ord(one):X}")
    assert not wrong


def test_a_blank_braille_pattern_is_a_space() -> None:
    assert alike("kim\u2800lee\u2800") == alike("kim lee")
