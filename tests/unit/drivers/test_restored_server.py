"""A restored server is started once, however slowly it answers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from evac.drivers.backups import Stopwatch
from evac.drivers.restored_server import RestoredServer, private_folder
from evac.model.errors import Permanent, Retryable


def test_a_server_that_answers_late_is_not_started_again(tmp_path: Path) -> None:
    server, said = RestoredServer(tmp_path), [True, False, False, True]

    async def answers() -> bool:
        return said.pop(0) if said else False

    async def story() -> None:
        argv = ("sleep", "600")
        try:
            await server.start(*argv, answers=answers, watch=Stopwatch(30.0))
            while (first := server.pid()) is None:
                await asyncio.sleep(0.01)
            await server.start(*argv, answers=answers, watch=Stopwatch(30.0))
            assert (server.pid(), said) == (first, [])
            with pytest.raises(Retryable) as slow:
                await server.start(*argv, answers=answers, watch=Stopwatch(0.2))
            assert (slow.value.code, server.pid()) == ("restore-slow", first)
        finally:
            await server.stop()
        with pytest.raises(Permanent) as broken:
            await server.start("false", answers=answers, watch=Stopwatch(30.0))
        assert broken.value.code == "restore-incomplete"

    asyncio.run(story())


def test_what_a_killed_restore_left_is_removed_by_the_next_one_of_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that is killed removes nothing: its socket and log would stay, with one more for each."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, other = private_folder(tmp_path / "data", None), private_folder(tmp_path / "other", None)
    (first / "log").write_text("of the killed one")
    again = private_folder(tmp_path / "data", None)
    assert list(again.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == sorted([again, other])
    assert again.stat().st_mode & 0o777 == 0o700
    again.rmdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    again.symlink_to(tmp_path / "theirs")
    assert private_folder(tmp_path / "data", None) not in (again, tmp_path / "theirs")
    assert (tmp_path / "theirs" / "file").exists(), "a name of someone else is left alone"


def test_a_server_that_ends_on_accepted_data_does_not_call_it_damaged(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    codes = []
    for way in ("start", "serve"):
        server = RestoredServer(tmp_path)
        with pytest.raises(Permanent) as found:
            asyncio.run(getattr(server, way)("false", answers=never, watch=Stopwatch(20.0)))
        codes.append(found.value.code)
    assert codes == ["restore-incomplete", "server-not-started"]
