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
    assert (error.code, error.message) == (code, "restic was killed by signal 9 before it ended")


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
