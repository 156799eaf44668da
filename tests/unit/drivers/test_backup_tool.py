"""Programs of backups: how they end decides the error, and a secret is never in it."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.drivers import programs
from evac.drivers.backups import Tool
from evac.drivers.borg.driver import BorgDriver
from evac.drivers.port import Action
from evac.drivers.restic.driver import ResticDriver
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net.secrets import resolve
from tests.contract.adapters.command import script

TOOL = partial(SimpleNamespace, program="restic", env={})
ACTION = Action("restore", "db", "restic", "a", {"repository": "/r", "paths": ("/data",)})
ABOUT = {"repository": {"id": "r"}}
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


@pytest.mark.parametrize("last", ["kill -9 $$", "sleep 60"])
def test_a_program_that_may_have_changed_something_is_in_doubt_whatever_it_said(
    tmp_path: Path, last: str
) -> None:
    program = script(tmp_path, "restic", "echo Fatal: wrong password >&2", last)
    tool = Tool(program, {}, reasons=(("wrong password", WRONG),))
    with pytest.raises(OutcomeUnknown) as caught:
        asyncio.run(tool.run("backup", timeout_s=1.0, changes=True))
    assert caught.value.code == "backup-unknown"
    assert caught.value.message.endswith(": restic: wrong password")
    with pytest.raises(Permanent) as read_only:
        asyncio.run(tool.run("backup", timeout_s=1.0))
    assert read_only.value.code == "backup-password"


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


def test_a_program_that_does_not_end_when_a_disk_is_full_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed, so what it left behind is unknown; why it failed is known."""
    monkeypatch.setattr(programs, "INTERRUPTED_S", 0.2)
    program = script(
        tmp_path,
        "restic",
        "trap '' INT",
        "echo Save returned error, retrying: No space left on device >&2",
        "while :; do sleep 0.05; done",
    )
    full = Permanent("backup-full", "the repository has no space left", "free some space in it")
    tool = Tool(program, {}, reasons=(("no space left", full),), hopeless=("no space left",))
    with pytest.raises(OutcomeUnknown) as caught:
        asyncio.run(tool.run("backup", timeout_s=86_400.0, changes=True))
    assert (caught.value.code, caught.value.hint) == ("backup-full", "free some space in it")
    assert caught.value.message == (
        "restic: the repository has no space left; it did not end when it was interrupted"
    )


def test_lines_are_passed_on_while_a_program_runs_and_the_others_are_kept(tmp_path: Path) -> None:
    """This one ends only after its first line was dealt with; a line without end stays bounded."""
    program = script(
        tmp_path,
        "restic",
        "echo begun",
        f"while [ ! -e {tmp_path}/heard ]; do sleep 0.02; done",
        "head -c 300000 /dev/zero | tr '\\0' x; echo; echo kept; printf done",
    )
    heard: list[bytes] = []

    def takes(line: bytes) -> bool:
        heard.append(line)
        (tmp_path / "heard").touch()
        return line == b"begun"

    ended = asyncio.run(Tool(program, {}).run("restore", timeout_s=60.0, takes=takes))
    assert heard[0] == b"begun"
    assert max(map(len, heard)) <= 2 * 65_536
    assert ended.output == f"{'x' * 300_000}\nkept\ndone"


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=3), st.data())
def test_what_is_passed_on_does_not_depend_on_how_the_pipe_was_cut(
    lengths: list[int], data: st.DataObject
) -> None:
    whole = b"\n".join(bytes([97 + number]) * length for number, length in enumerate(lengths))

    def heard(cuts: list[int]) -> tuple[list[bytes], bytes]:
        found: list[bytes] = []

        async def story() -> bytes:
            stream, kept = asyncio.StreamReader(), bytearray()
            reading = asyncio.ensure_future(
                programs._drain(stream, kept, len(whole), takes=lambda line: found.append(line) is None)
            )
            for begin, end in pairwise([0, *sorted(cuts), len(whole)]):
                stream.feed_data(whole[begin:end])
                await asyncio.sleep(0)
            stream.feed_eof()
            await reading
            return bytes(kept)

        return found, asyncio.run(story())

    assert heard(data.draw(st.lists(st.integers(0, len(whole)), max_size=4))) == heard([])


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


@given(st.lists(st.integers(0, 2_999_999), min_size=2, max_size=6, unique=True), st.randoms())
def test_copies_of_one_second_keep_the_order_in_which_they_were_taken(
    moments_us: list[int], chance: random.Random
) -> None:
    """The last one listed is the newest: a restore takes it."""

    def listed(driver: Any, entries: list[dict[str, Any]]) -> list[str]:
        async def answer(*_args: Any, **_named: Any) -> Any:
            return entries if isinstance(driver, ResticDriver) else {"archives": entries, **ABOUT}

        async def nothing(*_args: Any, **_named: Any) -> Any:
            return ("/data",)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{type(driver).__module__}._tool", lambda action: TOOL(json=answer))
            for name in ("_version", "_refuse_another", "_held"):
                patch.setattr(driver, name, nothing, raising=False)
            patch.setattr(driver, "_info", answer, raising=False)
            return [one.id for one in asyncio.run(driver._list(ACTION, 9.0)).copies]

    rows = [
        (at, f"{chance.getrandbits(64):016x}", datetime.fromtimestamp(1_700_000_000 + at / 1e6, UTC))
        for at in moments_us
    ]
    wanted = [name for _, name, _ in sorted(rows)]
    chance.shuffle(rows)
    restic = [{"id": name, "time": at.isoformat(), "paths": ["/data"], "tree": name} for _, name, at in rows]
    borg = [
        {
            "name": name,
            "start": at.replace(tzinfo=None).isoformat(),
            "stats": {"original_size": 1, "nfiles": 1},
            "command_line": ["borg", "create", f"::{name}", "/data"],
        }
        for _, name, at in rows
    ]
    assert listed(ResticDriver(), restic) == wanted
    assert listed(BorgDriver(), borg) == wanted
