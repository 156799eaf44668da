"""The small pieces: lines of events, clocks, the pool, requests, and the driver that does nothing."""

from __future__ import annotations

import asyncio
from types import MappingProxyType

import pytest

from evac.drivers.manual import NoopDriver
from evac.drivers.port import Action, Order
from evac.engine.clock import RunClock
from evac.engine.pool import Pool
from evac.engine.runs import requests
from evac.engine.runs.reading import decode, decode_all, encode
from evac.engine.runs.requests import Request, RequestTerms, event_of
from evac.model.access import Proven
from evac.model.errors import Corrupt, NotAllowed, RunError
from evac.model.run_policy import Envelope
from evac.run.decide import decide
from evac.run.state import RunView, apply
from evac.run.values import Event, RunStep
from tests.unit.engine.test_leading import HandClock
from tests.unit.engine.worlds import chain, spec_of
from tests.unit.run.world import World
from tests.unit.virtual_time import run_virtually


@pytest.mark.parametrize(
    "event",
    [
        Event("run_created", 1, data={"plan": "p"}),
        Event("step_started", 2**41, "a/ü\n", 3, MappingProxyType({"token": 7})),
        Event("monitoring_started", 0),
    ],
)
def test_an_event_is_one_line_and_comes_back(event: Event) -> None:
    line = encode(event)
    assert b"\n" not in line
    assert decode(line) == event._replace(data=dict(event.data))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'["nonsense",1,"",0,{}]',
        b'["resumed","1","",0,{}]',
        b'["resumed",1,"",0,[]]',
        b'["resumed",1,"",0,{}],["resumed",1,"",0,{}]',
        b'["resumed",1.5,"",0,{}]',
        b'["resumed",true,"",0,{}]',
    ],
)
def test_what_is_no_event_is_corrupt(line: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_all([line])


def test_data_that_is_no_json_never_gets_into_a_journal() -> None:
    with pytest.raises(Corrupt):
        encode(Event("resumed", 1, data={"who": object()}))


def test_a_wall_clock_that_jumps_does_not_move_the_run() -> None:
    class Jumping(HandClock):
        wall = 5_000

        def now_ms(self) -> int:
            return self.wall

    clock = Jumping()
    run = RunClock(clock)
    assert run.now_ms() == 5_000
    clock.wall = 1
    clock.ms += 10
    assert run.now_ms() == 5_010
    assert RunClock(clock, last_ms=9_000).now_ms() == 9_000
    clock.wall = 1_000_000
    assert RunClock(run, last_ms=5_010).now_ms() == 5_010, "nor what is made of its clock after the jump"


def test_instant_work_shares_one_task_and_slow_work_keeps_nothing_back() -> None:
    async def story() -> None:
        tasks: set[object] = set()
        ended: list[int] = []

        async def work(piece: int) -> None:
            tasks.add(asyncio.current_task())
            if piece < 50:
                await asyncio.sleep(0.1)
            ended.append(piece)

        pool = Pool(work, 1_000, lambda error: pytest.fail(repr(error)))
        pool.put(range(100, 1_100))
        await asyncio.sleep(0.01)
        assert len(ended) == 1_000
        assert len(tasks) == 1
        begin = asyncio.get_running_loop().time()
        pool.put(range(200))
        while len(ended) < 1_200:
            await asyncio.sleep(0.005)
        assert asyncio.get_running_loop().time() - begin < 1.0
        assert ended[1_000:1_150] == list(range(50, 200)), "the slow ones kept nothing back"
        await pool.close()

    run_virtually(story())


def test_a_pool_never_has_more_workers_than_it_may_and_stops_at_a_failure() -> None:
    async def story() -> None:
        busy = most = 0
        failures: list[BaseException] = []

        async def work(piece: int) -> None:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.005)
            busy -= 1
            if piece == 40:
                raise ValueError("broken")

        pool = Pool(work, 4, failures.append)
        pool.put(range(100))
        while not failures:
            await asyncio.sleep(0.005)
        assert most == 4
        assert isinstance(failures[0], ValueError)
        await pool.close()

    run_virtually(story())


def _view(steps: int = 2) -> RunView:
    world = World(chain(*(f"s{n}" for n in range(steps))))
    world.begin()
    world.settle()
    return world.view


def test_a_request_comes_back_as_it_was_written() -> None:
    request = Request(
        "r1",
        "approve",
        "mina",
        "fire",
        at_ms=5,
        ticket="T-1",
        envelope=Envelope(("pangyo",), ("a",), 3, 4),
        signature="x",
    )
    assert requests.decode(requests.key_of("run", "r1"), requests.encode(request)) == request


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request("r", "pause", "", "why"), "request-unsigned"),
        (Request("r", "pause", "mina", "  "), "request-unsigned"),
        (Request("r", "skip", "mina", "why"), "request-step"),
        (Request("r", "pause", "mina", "why", then="dance"), "request-then"),  # type: ignore[arg-type]
        (Request("r", "dance", "mina", "why"), "request-unknown"),  # type: ignore[arg-type]
        (Request("r", "pause", "mina", "w" * 3_000), "request-unreadable"),
    ],
)
def test_a_request_says_who_and_why(request_: Request, code: str) -> None:
    with pytest.raises(RunError) as caught:
        requests.encode(request_)
    assert caught.value.code == code


def test_what_is_no_request_is_refused() -> None:
    for value in (b"", b"[]", b"{}", b'{"verb":"pause","who":1,"reason":"x"}'):
        with pytest.raises(RunError):
            requests.decode("request/run/x", value)


def test_requests_become_events_where_the_state_allows_it() -> None:
    view = _view()
    pause = event_of(view, Request("r", "pause", "mina", "look", for_ms=1_000), 50, RequestTerms())
    assert pause.data["until_ms"] == 1_050
    longest = event_of(view, Request("r", "pause", "mina", "look", then="resume"), 50, RequestTerms(2_000))
    assert longest.data["until_ms"] == 2_050, "without a length it lasts as long as policy allows"
    apply(view, pause)
    with pytest.raises(RunError, match="s0 is running"):
        event_of(view, Request("r", "retry", "mina", "again", step="s0"), 60, RequestTerms())
    with pytest.raises(RunError, match="not a step"):
        event_of(view, Request("r", "skip", "mina", "again", step="zz"), 60, RequestTerms())
    with pytest.raises(NotAllowed, match="a run pause for at most 1 h"):
        event_of(view, Request("r", "pause", "mina", "long", for_ms=3_600_001), 60, RequestTerms())

    def nobody(view: RunView, request: Request, now_ms: int) -> Proven:
        raise NotAllowed("approver", "not one of the approvers")

    with pytest.raises(NotAllowed):
        event_of(view, Request("r", "approve", "eve", "please"), 60, RequestTerms(check=nobody))


def test_a_store_stays_moved_and_what_carries_something_stays_too() -> None:
    steps = (
        RunStep("promote", "promote", "s", 0, 1, data_set="s"),
        RunStep("fence", "fence", "s", 0, 1, data_set="s"),
        RunStep("start", "start", "a", 0, 1),
        RunStep("shift", "shift", "a", 0, 1, ("start",)),
    )
    world = World(spec_of(*steps))
    world.begin()
    while world.now_ms < 1_000 and "shift" not in world.done:
        world.step()
    world.finish()
    view = RunView(spec_of(*steps, monitor_ms=10))
    for event in world.events[:-1]:
        apply(view, event)
    with pytest.raises(NotAllowed, match="moved a store"):
        event_of(view, Request("r", "undo", "mina", "back", step="promote"), 1, RequestTerms())
    with pytest.raises(RunError, match="shift depends on start"):
        event_of(view, Request("r", "undo", "mina", "back", step="start"), 1, RequestTerms())
    undo = event_of(view, Request("r", "undo", "mina", "back", step="shift"), 1, RequestTerms())
    assert undo.kind == "undo_asked"
    apply(view, undo)
    assert [effect.kind for effect in decide(view, 2)] == ["undo"]


def test_the_driver_that_does_nothing_remembers_what_it_did() -> None:
    async def story() -> None:
        driver, action = NoopDriver(), Action("run", "x", "noop")
        order = Order("r", "s", 1, 1, 0, "", 1.0, "r/s")
        assert (await driver.check(action, order)).ready
        assert (await driver.observe(action, order)).outcome == "absent"
        await driver.execute(action, order)
        await driver.execute(action, order)
        assert (await driver.observe(action, order)).outcome == "done"
        await driver.undo(action, order)
        assert (await driver.observe(action, order)).outcome == "absent"
        await driver.close()

    run_virtually(story())
