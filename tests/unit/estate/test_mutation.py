"""Whatever is done to the files of a valid estate: diagnostics, never a traceback."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.estate import check, load, write
from evac.estate.format.problems import CODES
from tests.unit.estate.large import large_estate

ESTATES = Path(__file__).resolve().parents[2] / "fixtures" / "estates"
TEXT = (ESTATES / "small" / "estate.yaml").read_text()
BITS = [
    *(
        "[",
        "]",
        "{",
        "}",
        ": ",
        ", ",
        "- ",
        "&a ",
        "*a",
        "<<: *a",
        "!!x ",
        "~",
        "unknown",
        "\t",
        "\n",
        "#",
        "'",
        '"',
    ),
    *(
        "|",
        ">",
        "---\n",
        "?",
        "0",
        "-1",
        "1e9",
        ".nan",
        " %",
        " GiB",
        " s",
        "/",
        "\u0000",
        "\ufeff",
        "\U0001f525",
    ),
    *(
        "no",
        "yes",
        "%",
        "@",
        "value",
        "source",
        "observed: 2026-02-30",
        "good_for: 3 d",
        "9" * 20,
        "\r",
        "x" * 300,
    ),
]


def assert_survives(folder: Path) -> None:
    result = check(folder)
    assert all(d.code in CODES and d.message for d in result.diagnostics)
    assert (result.estate is None) == any(d.severity == "error" for d in result.diagnostics)


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """The text with lines and pieces taken out, doubled, swapped or put in."""
    text = TEXT
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from([0, 1, 3, 20, 200]))
        piece = draw(st.sampled_from([*BITS, text[start : start + length] * 2, text[-length:]]))
        text = text[:start] + piece + text[start + length :]
    return text


@given(text=mutations())
@settings(max_examples=300)
def test_a_changed_text_gives_diagnostics(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    (folder / "estate.yaml").write_text(text, encoding="utf-8", newline="")
    assert_survives(folder)


@given(data=st.binary(max_size=300))
def test_any_bytes_give_diagnostics(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    (folder / "estate.yaml").write_bytes(data)
    assert_survives(folder)


@pytest.mark.parametrize("name", ["servers.csv", "replicas.csv", "racks.csv"])
def test_a_changed_table_gives_diagnostics(name: str, tmp_path: Path) -> None:
    write(large_estate(2_000, 200, 20), tmp_path / "out")
    file = tmp_path / "out" / name
    good = file.read_bytes()[:4_000]
    good = good[: good.rindex(b"\n") + 1]
    chance = random.Random(7)
    for _ in range(150):
        broken = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            start = chance.randrange(len(broken))
            piece = chance.choice([*BITS, "\n\n", ",", ",,", '"', ""]).encode()
            broken[start : start + chance.choice([0, 1, 5, 50])] = piece
        file.write_bytes(bytes(broken))
        assert_survives(tmp_path / "out")


def test_leaving_any_line_out_gives_diagnostics(tmp_path: Path) -> None:
    lines = TEXT.splitlines(keepends=True)
    for row in range(len(lines)):
        (tmp_path / "estate.yaml").write_text("".join(lines[:row] + lines[row + 1 :]))
        assert_survives(tmp_path)


def test_every_value_as_a_list_and_as_a_mapping_gives_diagnostics(tmp_path: Path) -> None:
    write(load(ESTATES / "small"), tmp_path / "out")
    file = tmp_path / "out" / "estate.yaml"
    lines = file.read_text().splitlines()
    for row, line in enumerate(lines):
        key, found, value = line.partition(": ")
        if found:
            for other in ("[]", "{}", "{value: 3}", "[{}]", "{a: [b]}", "unknown", '""'):
                file.write_text("\n".join([*lines[:row], f"{key}: {other}", *lines[row + 1 :]]))
                assert_survives(tmp_path / "out")
                if len(value) > 40 or row > 80:
                    break
