"""What others named or wrote neither controls the terminal nor adds lines of its own to what evac prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.cli.main import run
from evac.cli.program import show
from evac.model.diagnostic import Diagnostic, Place
from evac.model.errors import EstateError, EvacError, Permanent

EVIL = "z\x1b]0;PWNED\x07\n::warning file=x::injected\n\u202e"
COMMANDS = (
    ["check"],
    ["check", "--output", "github"],
    ["audit"],
    ["audit", "--output", "github"],
    ["plan", "--lose", "east"],
)


def _harmless(text: str) -> None:
    assert "injected" in text
    assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]
    assert not [line for line in text.splitlines() if line.startswith("::warning file=x")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_name_of_a_file_is_no_command(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{EVIL}.yaml").write_text("servers: {{{")
    assert run([command[0], str(tmp_path), *command[1:]]) != 0
    said = capsys.readouterr()
    _harmless(f"{said.out}{said.err}")


def test_an_error_that_quotes_a_program_is_printed_safely(capsys: pytest.CaptureFixture[str]) -> None:
    show(EstateError((Diagnostic("odd", EVIL, Place(EVIL, 1, 1), hint=EVIL),)))
    show(EvacError("odd", EVIL, EVIL))
    _harmless(capsys.readouterr().err)


def test_what_is_recorded_of_an_error_controls_no_terminal() -> None:
    error = Permanent("backup-refused", f"restic ended with 1: {EVIL}", EVIL)
    for text in (error.message, error.hint, str(error), error.with_hint):
        assert not [letter for letter in text if letter not in "\n\t" and not letter.isprintable()]
