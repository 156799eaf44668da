"""Material under lock: any k of n open it, fewer do not, and a slip of the pen is told apart."""

from __future__ import annotations

import itertools
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from evac.bundle.sealing import (
    Lock,
    Material,
    Share,
    lock_up,
    read_share,
    read_share_file,
    unlock,
    write_shares,
)
from evac.model.errors import InvalidInput

MATERIAL = Material({"env:EVAC_KEY": "s3cret of an agent"}, {"grant.txt": b"\x00\xff grant"})


def test_any_two_of_three_open_it_and_one_does_not() -> None:
    lock, sealed, _, shares = lock_up(MATERIAL, b"", 2, 3)
    for chosen in itertools.permutations(shares, 2):
        assert unlock(lock, sealed, chosen) == MATERIAL
    assert unlock(lock, sealed, shares) == MATERIAL
    for few in ((), shares[:1], (shares[0], shares[0])):
        with pytest.raises(InvalidInput) as refused:
            unlock(lock, sealed, few)
        assert refused.value.code == "share-missing"
    for secret in (b"s3cret", b"EVAC_KEY", b"grant"):
        assert secret not in sealed


def test_a_wrong_share_or_a_changed_lock_opens_nothing() -> None:
    lock, sealed, _, shares = lock_up(MATERIAL, b"", 2, 3)
    wrong = replace(shares[1], part=bytes(16))
    stranger = lock_up(MATERIAL, b"", 2, 3)[3][1]
    fewer = Lock(lock.name, 1, 3)  # a manifest that asks for fewer people than the lock does
    for given_lock in (replace(lock, name="../x"), replace(lock, needed=0), replace(lock, people=900)):
        with pytest.raises(InvalidInput):
            unlock(given_lock, sealed, tuple(replace(share, lock=given_lock) for share in shares))
    for given_lock, data, chosen, code in (
        (lock, sealed, (shares[0], wrong), "share-wrong"),
        (lock, sealed, (shares[0], stranger), "share-foreign"),
        (lock, sealed[:-1] + bytes([sealed[-1] ^ 1]), shares[:2], "share-wrong"),
        (lock, b"", shares[:2], "share-wrong"),
        (fewer, sealed, tuple(replace(share, lock=fewer) for share in shares[:1]), "share-wrong"),
    ):
        with pytest.raises(InvalidInput) as refused:
            unlock(given_lock, data, chosen)
        assert refused.value.code == code


def test_a_share_is_one_line_and_a_slip_in_it_is_seen(tmp_path: Path) -> None:
    *_, shares = lock_up(MATERIAL, b"", 2, 3)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = (tmp_path / "a", tmp_path / "b", tmp_path / "a")
    paths = write_shares(shares, folders, "evac bundle of small")
    assert [read_share_file(path) for path in paths] == list(shares)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    with pytest.raises(InvalidInput):
        write_shares(shares, folders, "never over another file")
    line = shares[0].line()
    for at in range(len(line)):
        changed = line[:at] + ("0" if line[at] != "0" else "1") + line[at + 1 :]
        with pytest.raises(InvalidInput) as refused:
            read_share(changed)
        assert shares[0].part.hex() not in refused.value.message
    for other in ("", "evac-share-1", line + " more", "é" * 10, "evac-share-1 a 2/3 1 00 12345678"):
        with pytest.raises(InvalidInput):
            read_share(other)
    (tmp_path / "long").write_bytes(b"x" * 5_000)
    with pytest.raises(InvalidInput):
        read_share_file(tmp_path / "long")


def test_the_same_draw_gives_the_same_key_and_another_one_another() -> None:
    def draw(count: int) -> bytes:
        return bytes(range(count))

    assert lock_up(MATERIAL, b"", 2, 3, draw)[:2] == lock_up(MATERIAL, b"", 2, 3, draw)[:2]
    assert lock_up(MATERIAL, b"", 2, 3)[1] != lock_up(MATERIAL, b"", 2, 3)[1]


@pytest.mark.parametrize(("needed", "people"), [(1, 3), (4, 3), (0, 0), (2, 65)])
def test_a_lock_asks_for_two_people_at_least(needed: int, people: int) -> None:
    with pytest.raises(InvalidInput):
        lock_up(MATERIAL, b"", needed, people)


def test_a_share_shows_only_which_one_it_is() -> None:
    assert Share(Lock("00" * 8, 2, 3), 1, bytes(16)).line().startswith("evac-share-1 0000000000000000 2/3 1 ")
