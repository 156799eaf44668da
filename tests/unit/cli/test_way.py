"""The next command goes to the same server or store as the one that named it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evac.cli import console
from evac.views.sheet import Page


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    console.forget()
    yield
    console.forget()


def test_options_of_this_command_are_repeated_in_the_next() -> None:
    text = "3 runs\n  next: evac run verify r1, then evac run events r1\n"
    assert console.with_way(text) == text, "nothing was given"
    console.remember(
        {"--store": None, "--server": "https://evac.example:8400", "--ca": "my ca.pem"}, server=True
    )
    options = "--server https://evac.example:8400 --ca 'my ca.pem'"
    assert console.with_way(text) == (
        f"3 runs\n  next: evac run verify r1 {options}, then evac run events r1 {options}\n"
    )
    assert console.with_way("error: no [x]\nnext: evac hold --release") == (
        f"error: no [x]\nnext: evac hold --release {options}"
    )


@pytest.mark.parametrize(
    ("said", "with_server", "with_store"),
    [
        (
            "next: evac apply p ESTATE --execute",
            "next: evac apply p --execute W",
            "next: evac apply p ESTATE --execute W",
        ),
        (
            "next: evac run verify --estate ESTATE",
            "next: evac run verify W",
            "next: evac run verify --estate ESTATE W",
        ),
        ("next: evac what-if pangyo; look", "next: evac what-if pangyo W; look", None),
        ("next: create one with evac plan, and apply its file", None, None),
        ("next: evac status --store sqlite:x", None, None),
        ("next: evac running late", None, None),
        ("a notice: evac approve r1", None, None),
        ('{"hint": "evac run list"}', None, None),
        (
            "error: two sites (evac approve r1 --confirm a) [second-site]",
            "error: two sites (evac approve r1 --confirm a W) [second-site]",
            None,
        ),
        ("\x1b[2mnext: evac drawer list\x1b[0m", "\x1b[2mnext: evac drawer list W\x1b[0m", None),
    ],
)
def test_only_commands_that_are_named_as_the_next_are_completed(
    said: str, with_server: str | None, with_store: str | None
) -> None:
    console.remember({"--server": "W"}, server=True)
    assert console.with_way(said) == (with_server or said).replace(" W", " --server W")
    console.remember({"--store": "W"}, server=False)
    assert console.with_way(said) == (with_store or with_server or said).replace(" W", " --store W")


def test_a_password_in_an_address_is_not_repeated() -> None:
    console.remember({"--store": "etcd:http://kim:secret@10.0.0.1:2379"}, server=False)
    assert console.with_way("next: evac run list") == "next: evac run list --store URL"


def test_a_line_that_names_a_command_is_never_broken() -> None:
    page = Page(40, True)
    page.line("next: evac approve a-run-with-a-very-long-name-of-many-words --reason WHY", "dim")
    page.line("a sentence of many words that is as long as that, and is broken where it ends")
    console.remember({"--store": "s"}, server=False)
    lines = console.with_way(page.text()).splitlines()
    assert "words --reason WHY --store s" in lines[0]
    assert len(lines) > 2
