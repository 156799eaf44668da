"""Where two members' histories part, and what the log says was committed after."""

from __future__ import annotations

import pytest

from evac.drivers.postgres.facts import (
    ENDLESS,
    Control,
    Stretch,
    fork_of,
    parse_commit,
    parse_control,
    parse_history,
)
from evac.drivers.postgres_log import lsn_number, lsn_text, segment_at
from evac.model.errors import Permanent

HISTORY = "1\t0/3000148\tno recovery target specified\n\n2\t1/5000000\tno recovery target specified\n"


def test_a_history_is_stretches_oldest_first() -> None:
    assert parse_history(HISTORY, 3) == (
        Stretch(1, 0, 0x3000148),
        Stretch(2, 0x3000148, 0x105000000),
        Stretch(3, 0x105000000, ENDLESS),
    )
    assert parse_history("", 1) == (Stretch(1, 0, ENDLESS),)


@pytest.mark.parametrize(
    "text",
    ["1 nowhere", "2\t0/3000148\tx", "2\t0/3000148\tx\n1\t0/4000148\tx", "1\t0/4000148\tx\n2\t0/3000148\tx"],
)
def test_a_history_that_cannot_be_read_or_is_out_of_order_is_refused(text: str) -> None:
    with pytest.raises(Permanent, match="the history of timeline 2 cannot be read"):
        parse_history(text, 2)


def test_the_fork_is_where_the_new_primary_left_the_old_timeline() -> None:
    assert fork_of(parse_history("", 1), parse_history(HISTORY, 3)) == (1, 0x3000148)


def test_the_fork_of_two_that_were_both_promoted() -> None:
    ours = parse_history("1\t0/3000148\tx", 2)
    theirs = parse_history("1\t0/2000000\tx", 3)
    assert fork_of(ours, theirs) == (1, 0x2000000)


def test_one_history_does_not_fork_from_itself() -> None:
    assert fork_of(parse_history(HISTORY, 3), parse_history(HISTORY, 3)) == (3, ENDLESS)


def test_strangers_share_nothing() -> None:
    with pytest.raises(Permanent):
        fork_of((Stretch(5, 7, ENDLESS),), parse_history("", 1))


@pytest.mark.parametrize("number", [0, 0x3000148, 0x105000000, 2**63])
def test_positions_are_written_as_the_server_writes_them(number: int) -> None:
    assert lsn_number(lsn_text(number)) == number


def test_segments_are_named_as_their_files() -> None:
    assert segment_at(1, 0x3000148, 16 << 20) == "000000010000000000000003"
    assert segment_at(2, 0x105000000, 16 << 20) == "000000020000000100000005"
    assert segment_at(10, 0x105000000, 1 << 30) == "0000000A0000000100000000"


COMMIT = (
    "rmgr: Transaction len (rec/tot):     82/    82, tx:        743, lsn: 0/0304C1A8, prev 0/0304C168, "
    "desc: COMMIT 2026-11-25 09:31:02.123456 UTC; subxacts: 744 745"
)


def test_a_commit_names_its_transactions() -> None:
    commit = parse_commit(COMMIT)
    assert commit is not None
    assert commit.xids == (743, 744, 745)
    assert commit.lsn == "0/0304C1A8"


def test_a_commit_in_two_phases_names_the_prepared_transaction() -> None:
    line = COMMIT.replace("COMMIT 2026", "COMMIT_PREPARED 901: 2026").replace("743,", "0,")
    commit = parse_commit(line)
    assert commit is not None
    assert 901 in commit.xids
    assert 0 not in commit.xids


@pytest.mark.parametrize(
    "line",
    [COMMIT.replace("COMMIT", "ABORT"), COMMIT.replace("Transaction", "Heap"), "", "pg_waldump: error"],
)
def test_other_lines_are_no_commits(line: str) -> None:
    assert parse_commit(line) is None


def test_the_control_file_tells_a_primary_from_a_standby() -> None:
    text = (
        "Database system identifier:           7712040771004611147\n"
        "Database cluster state:               {state}\n"
        "Latest checkpoint's TimeLineID:       2\nBytes per WAL segment:                16777216\n"
    )
    old = parse_control(text.format(state="in production"))
    assert old == Control("7712040771004611147", 2, "in production", 16 << 20)
    assert not old.was_standby
    assert not parse_control(text.format(state="shut down")).was_standby
    assert parse_control(text.format(state="in archive recovery")).was_standby
    assert parse_control(text.format(state="shut down in recovery")).was_standby
    with pytest.raises(Permanent):
        parse_control("pg_controldata: fatal")
