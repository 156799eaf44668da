"""evac agent."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def agent(file: Path) -> None:
    """Run the agent of this site, as its FILE (TOML) says, until it is told to end.

    It starts and stops local units, does what signed orders say near the systems they change, and is the hand
    of a fence. What it started goes on when it ends.
    """
    import asyncio
    import logging
    import signal

    from evac.agent.config import read_config
    from evac.agent.service import run_agent
    from evac.app.systemd_notify import Supervisor

    config = read_config(file)
    supervisor = Supervisor()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")

    async def until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        telling = asyncio.create_task(
            supervisor.once_listening(config.host, config.port, f"the agent of {config.site}")
        )
        try:
            await run_agent(config, stop)
        finally:
            supervisor.stopping()
            telling.cancel()

    asyncio.run(until_told())
