"""Prefect in an environment of its own: `python peer_prefect.py STEPS AT_ONCE SECONDS` prints one JSON line.

No-op tasks of one flow whose results are kept in files, on the server that Prefect starts for itself, in the
folder that PREFECT_HOME names.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.metadata import version

from prefect import flow, task


@task(persist_result=True)
async def nothing(number: int) -> int:
    return number


@flow(persist_result=False)
async def work(steps: int, at_once: int, seconds: float) -> tuple[int, float]:
    """(tasks done, seconds they took); the flow's own start and end are not counted."""
    begin = time.perf_counter()
    todo = iter(range(steps))
    done = 0

    async def lane() -> None:
        nonlocal done
        for number in todo:
            if time.perf_counter() - begin > seconds:
                return
            await nothing(number)
            done += 1

    await asyncio.gather(*(lane() for _ in range(at_once)))
    return done, time.perf_counter() - begin


def main() -> None:
    steps, at_once, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    done, taken = asyncio.run(work(steps, at_once, seconds))
    print(json.dumps({"steps_per_second": done / taken, "version": version("prefect")}))


if __name__ == "__main__":
    main()
