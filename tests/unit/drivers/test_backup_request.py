"""A request to restored data runs the program of the settings, and nothing from the restored data."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evac.drivers.backup_request.driver import BackupRequestDriver
from evac.drivers.port import Action
from tests.contract.adapters.command import script


@pytest.mark.parametrize(("path", "argv"), [(".", "ask"), ("", "./ask")])
def test_a_program_named_by_a_relative_path_is_never_taken_from_the_restored_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, argv: str
) -> None:
    own, place = tmp_path / "own", tmp_path / "restored"
    for folder, words in ((own, "good"), (place, "restored")):
        folder.mkdir()
        script(folder, "ask", f"echo {words}")
    monkeypatch.chdir(own)
    if path:
        monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    action = Action("verify", "wiki", "backup_request", "a", {"argv": (argv,), "answer": "good"})
    reply = asyncio.run(BackupRequestDriver().ask(action, 30.0, str(place)))
    assert (reply.answer, reply.matches) == ("good", True)
