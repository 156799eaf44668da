"""Programs of backups: how they end decides the error, and a secret is never in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evac.drivers.backups import Tool
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net.secrets import resolve
from tests.contract.adapters.command import script

WRONG = Permanent("backup-password", "wrong password", "check `password`")


def error_of(tool: Tool, changes: bool = False) -> ActionError:
    with pytest.raises(ActionError) as caught:
        asyncio.run(tool.run("backup", timeout_s=10.0, changes=changes))
    return caught.value


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [(False, Retryable, "backup-killed"), (True, OutcomeUnknown, "backup-unknown")],
)
def test_a_program_that_was_killed_is_named(
    tmp_path: Path, changes: bool, kind: type[ActionError], code: str
) -> None:
    error = error_of(Tool(script(tmp_path, "restic", "kill -9 $$"), {}), changes)
    assert isinstance(error, kind)
    assert (error.code, error.message) == (code, "restic was killed by signal 9")


def test_what_a_program_says_last_is_known_however_much_it_says(tmp_path: Path) -> None:
    program = script(tmp_path, "mariabackup", "seq 1 30000 >&2", "echo completed OK! >&2")
    ended = asyncio.run(Tool(program, {}).run("backup", timeout_s=60.0))
    assert ended.errors.endswith("30000\ncompleted OK!\n")


def test_a_program_that_can_no_longer_succeed_is_interrupted_and_cleans_up(tmp_path: Path) -> None:
    """restic tries again for a quarter of an hour where a disk is full; this one does for ever."""
    program = script(
        tmp_path,
        "restic",
        f"trap 'touch {tmp_path}/tidy; exit 130' INT",
        "echo Save returned error, retrying: No space left on device >&2",
        "while :; do sleep 0.05; done",
    )
    full = Permanent("backup-full", "the repository has no space left")
    tool = Tool(program, {}, reasons=(("no space left", full),), hopeless=("no space left",))
    with pytest.raises(Permanent) as caught:
        asyncio.run(tool.run("backup", timeout_s=86_400.0, changes=True))
    assert caught.value.code == "backup-full"
    assert (tmp_path / "tidy").exists()


def test_a_password_that_is_part_of_the_reason_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVAC_TEST_SHORT", "no")
    program = script(tmp_path, "restic", "echo Fatal: wrong password or no key found >&2", "exit 12")
    reasons = (("wrong password or no key found", WRONG),)
    error = error_of(Tool(program, {}, (resolve("env:EVAC_TEST_SHORT"),), reasons))
    assert (error.code, error.message) == ("backup-password", "restic: wrong password")
    unnamed = error_of(Tool(program, {}, (resolve("env:EVAC_TEST_SHORT"),)))
    assert "(secret)" in unnamed.message
