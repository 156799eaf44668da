"""evac doctor."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click

from evac.cli import exits
from evac.cli.options import output_option
from evac.cli.output import emit, say


@click.command()
@click.option(
    "--install", is_flag=True, help="Run the one command that installs what is missing; asks first."
)
@click.option("--yes", is_flag=True, help="With --install: do not ask.")
@click.option("--offset", type=click.IntRange(0, 59), default=0, help="Which lab: see evac lab up.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where the lab keeps its state."
)
@output_option("text", "json")
def doctor(install: bool, yes: bool, offset: int, folder: Path | None, output: str) -> int:
    """What is missing on this machine for the lab, and the one command that installs it."""
    import json
    from dataclasses import asdict

    from evac_lab import doctor as doctors
    from evac_lab.state import LabFolder, default_folder

    place = LabFolder((folder or default_folder()).absolute())
    found = doctors.examine(place, offset)
    if install and found.command:
        _install(found.command, yes)
        found = doctors.examine(place, offset)
    if output == "json":
        emit(json.dumps({"schema_version": 1, "well": found.well, **asdict(found)}, indent=2), None)
    else:
        emit(doctors.as_text(found), None)
    return exits.DONE if found.well else exits.FAILED


def _install(command: str, yes: bool) -> None:
    """Runs it after the user has agreed; a package manager is never started unasked."""
    if not yes and not sys.stdin.isatty():
        say(f"not installed, because nobody could be asked: {command}")
        return
    if yes or click.confirm(f"run: {command}", err=True):
        words = shlex.split(command)
        subprocess.run(_without_sudo(words), check=False)


def _without_sudo(words: list[str]) -> list[str]:
    import os

    return words[1:] if words[0] == "sudo" and os.geteuid() == 0 else words
