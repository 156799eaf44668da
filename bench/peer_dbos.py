"""DBOS in an environment of its own: `python peer_dbos.py URL STEPS WORKFLOWS SECONDS` prints one JSON line.

No-op durable steps through its asynchronous interface; WORKFLOWS run side by side. Its log stays silent.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.metadata import version

from dbos import DBOS


@DBOS.step()
async def nothing(number: int) -> int:
    return number


@DBOS.workflow()
async def work(steps: int, until: float) -> int:
    """Stops early where time runs out; says how many steps it made."""
    for number in range(steps):
        if time.time() > until:
            return number
        await nothing(number)
    return steps


async def measure(steps: int, workflows: int, seconds: float) -> float:
    """Steps a second."""
    await (await DBOS.start_workflow_async(work, 10, time.time() + 60)).get_result()
    begin = time.perf_counter()
    until = time.time() + seconds
    handles = [await DBOS.start_workflow_async(work, steps // workflows, until) for _ in range(workflows)]
    done = [await handle.get_result() for handle in handles]
    return sum(done) / (time.perf_counter() - begin)


def main() -> None:
    url, steps, workflows, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    DBOS(
        config={
            "name": "bench-peer",
            "system_database_url": url,
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )
    DBOS.launch()
    try:
        rate = asyncio.run(measure(steps, workflows, seconds))
    finally:
        DBOS.destroy()
    print(json.dumps({"steps_per_second": rate, "version": version("dbos")}))


if __name__ == "__main__":
    main()
