"""A restored server is started once, however slowly it answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evac.drivers.backups import Stopwatch
from evac.drivers.restored_server import RestoredServer
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
