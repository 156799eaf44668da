"""No more passes in any period than the limit allows, and a program ends once no one takes its output."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.drivers.backups import Stopwatch, Tool, in_time
from evac.drivers.bandwidth import DOWNLOAD, KIB, PIECE_BYTES, UPLOAD, Pace, passed_on
from evac.drivers.programs import Ended
from evac.drivers.registry import DRIVERS
from evac.drivers.spec import COPY_FOLDER
from evac.model.errors import ActionError, Retryable

PIECES = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 4 << 20)), min_size=1, max_size=30)


@given(st.integers(1, 1 << 20), PIECES)
def test_no_period_sees_more_than_the_limit_and_one_piece(kib: int, pieces: list[tuple[float, int]]) -> None:
    """However long the pauses between pieces are, and however large each piece is."""
    now_s = 1_000.0
    pace = Pace(0, kib, kib * 3, clock=lambda: now_s)
    passed: list[tuple[float, int]] = []
    for pause_s, size in pieces:
        now_s += pause_s
        passed.append((now_s, size))
        now_s += pace.due_s(size)
    for first, (begins_s, _) in enumerate(passed):
        seen = 0
        for ends_s, size in passed[first:]:
            assert seen <= (ends_s - begins_s) * kib * KIB + 1, "before the last piece"
            seen += size


def test_no_limit_waits_for_nothing_and_stops_all_the_same() -> None:
    pace = Pace(0, 0)
    assert pace.due_s(1 << 40) == 0
    pace.passed(1 << 40)
    with Pace(0) as ended:
        pass
    with pytest.raises(OSError, match="cancel") as raised:
        ended.passed(1)
    assert raised.value.errno == errno.ECANCELED


def program(words: str) -> Tool:
    return Tool(sys.executable, {}, first=("-c", words))


async def sent(words: str, target: int, pace: Pace, timeout_s: float = 60.0) -> Ended:
    async def work(out: int) -> Ended:
        return await program(words).run(timeout_s=timeout_s, writes=out)

    return await passed_on(work, target, pace)


LIMITED = {name for name, spec in DRIVERS.items() if "upload_kib" in {one.key for one in spec.settings}}


def test_every_driver_of_backups_in_a_folder_can_be_limited_in_both_directions() -> None:
    for name, spec in DRIVERS.items():
        if set(COPY_FOLDER) <= set(spec.settings):
            assert {UPLOAD, DOWNLOAD} <= {one.key for one in spec.settings}, name
    assert {"borg", "restic", "mariabackup", "pg_basebackup", "redis_rdb", "etcd_snapshot"} <= LIMITED


@pytest.mark.parametrize(
    ("driver", "value", "is_right"),
    [
        ("pg_basebackup", 31, False),
        ("pg_basebackup", 32, True),
        ("pg_basebackup", 1_048_576, True),
        ("pg_basebackup", 1_048_577, False),
        ("redis_rdb", 1, True),
        ("mariabackup", -1, False),
    ],
)
def test_a_limit_that_its_tool_refuses_is_refused_in_the_estate(
    driver: str, value: int, is_right: bool
) -> None:
    (setting,) = (one for one in DRIVERS[driver].settings if one.key == UPLOAD)
    assert (setting.problem(value) == "") == is_right


BYTES = 5 * PIECE_BYTES + 17
WRITES = f"import sys; sys.stdout.buffer.write(bytes(range(256)) * {BYTES // 256 + 1})"


def test_everything_arrives(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        ended = asyncio.run(sent(WRITES, file.fileno(), Pace(0)))
    assert (ended.code, ended.output) == (0, ""), "nothing of it is kept"
    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * (BYTES // 256 + 1)


def test_what_the_next_program_reads_is_what_was_written(tmp_path: Path) -> None:
    async def story() -> Ended:
        reads, writes = os.pipe()
        counts = program("import sys; print(sum(len(line) for line in sys.stdin.buffer))")
        reading = asyncio.ensure_future(counts.run(timeout_s=60.0, reads=reads))
        await sent(WRITES, writes, Pace(0))
        os.close(writes)
        ended = await reading
        os.close(reads)
        return ended

    assert int(asyncio.run(story()).output) == 256 * (BYTES // 256 + 1)


ENDLESS = "import sys\nwhile True: sys.stdout.buffer.write(b'x' * 65536)"


def test_a_program_ends_once_nothing_takes_what_it_writes() -> None:
    async def story() -> None:
        reads, writes = os.pipe()
        os.close(reads)
        try:
            await sent(ENDLESS, writes, Pace(0))
        finally:
            os.close(writes)

    with pytest.raises(BrokenPipeError):
        asyncio.run(story())


def test_a_program_that_takes_too_long_ends_though_nothing_is_taken() -> None:
    async def story(timeout_s: float) -> None:
        reads, writes = os.pipe()  # no one ever reads
        try:
            await sent(ENDLESS, writes, Pace(0), timeout_s)
        finally:
            os.close(writes)
            os.close(reads)

    with pytest.raises(Retryable) as raised:
        asyncio.run(story(0.2))
    assert raised.value.code == "backup-silent"


def test_a_transfer_that_is_cancelled_leaves_no_thread_behind(tmp_path: Path) -> None:
    """Even one whose next piece may pass in a year only."""

    async def story() -> None:
        with (tmp_path / "file").open("wb") as file:
            sending = asyncio.ensure_future(sent(ENDLESS, file.fileno(), slow))
            while not file.seek(0, os.SEEK_END):
                await asyncio.sleep(0.01)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    slow = Pace(1, clock=iter(range(0, 10_000_000_000, 1)).__next__)
    slow.due_s(1 << 40)
    asyncio.run(story())  # waits for every thread


def test_a_program_that_is_refused_is_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(ActionError) as raised:
        asyncio.run(sent("import sys; print('some'); sys.exit('no such user')", file.fileno(), Pace(0)))
    assert "no such user" in raised.value.message


def test_a_slow_transfer_takes_no_thread_of_all_others() -> None:
    """Only another thread ends it."""
    ended = threading.Event()

    async def story() -> bool:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        transfer = asyncio.ensure_future(in_time(lambda: ended.wait(60), Stopwatch(120), "the transfer"))
        await asyncio.sleep(0)
        await asyncio.to_thread(ended.set)
        return await transfer is True

    assert asyncio.run(story())
