"""`evac run quarantine`, `run limit` and the forecast of `run show`, on a journal in a store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from evac.app.runs import OPEN
from evac.cli.program import cli
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs import requests
from evac.engine.runs.binding import Bound, put_bound
from evac.engine.runs.reading import create_run, encode
from evac.run.values import Event
from evac.store.port import Put
from evac.store.sqlite import SqliteStore
from tests.unit.engine.test_boot_binding import bound


@pytest.fixture
def evac(tmp_path: Path) -> Callable[..., Result]:
    """A run of eight boots: one is up, one dead and left to the floor."""
    one: Bound = bound()
    url = f"sqlite:{tmp_path / 'runs.db'}"

    async def made() -> None:
        store = SqliteStore(tmp_path / "runs.db")
        leading = await Leadership.acquire(store, "c1", 60_000, SystemClock())
        await put_bound(store, one, None)
        journal, _ = await create_run(store, one.spec, leading, SystemClock(), {"reason": "test"})
        lost: dict[str, Any] = {"code": "bmc-wrong-serial", "message": "another", "again_ms": -1}
        now = SystemClock().now_ms()
        events = [
            Event("approved", now, "", 0, {"who": "mina", "reason": "go", "typed": []}),
            Event("run_started", now),
            *(
                Event(kind, now, f"power:pangyo/{feed}", 1, {})
                for feed in "ab"
                for kind in ("step_started", "step_succeeded")
            ),
            *(Event("step_started", now, f"boot:s{n}", 1, {}) for n in (0, 1)),
            Event("step_succeeded", now, "boot:s0", 1, {"evidence": {"state": "up"}}),
            Event("step_failed", now, "boot:s1", 1, lost),
            Event("step_skipped", now, "boot:s1", 1, {"who": "evac", "reason": "left to the floor"}),
        ]
        await journal.append([encode(event) for event in events], leading.lease)
        await store.transact((), (Put(OPEN + "r", b"{}"),))
        await leading.release()
        await store.close()

    asyncio.run(made())

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, ["run", *words, "--store", url], env={"COLUMNS": "120"})

    return run


def test_the_list_for_the_floor_comes_in_every_form(evac: Callable[..., Result], tmp_path: Path) -> None:
    text = evac("quarantine", "r")
    assert text.exit_code == 0
    assert "1 server of 8 not up" in text.output
    told = json.loads(evac("quarantine", "r", "--output", "json").output)
    assert told["down"][0] == {
        "hall": "pangyo/h1",
        "rack": "pangyo/h1/r1",
        "position": "11",
        "server": "s1",
        "serial": "SN1",
        "code": "bmc-wrong-serial",
        "reason": "another machine answers at this address",
        "what_to_do": (
            "compare the serial number on the server with the inventory; fix the address or the cable"
        ),
        "may_draw_power": False,
        "tries": 1,
    }
    assert "down,pangyo/h1,pangyo/h1/r1,11,s1,SN1," in evac("quarantine", "r", "--output", "csv").output
    page = tmp_path / "floor.html"
    assert evac("quarantine", "r", "--output", "html", "--to", str(page)).exit_code == 0
    assert "<!doctype html>" in page.read_text(encoding="utf-8")


def test_show_says_when_all_are_on(evac: Callable[..., Result]) -> None:
    said = json.loads(evac("show", "r", "--output", "json").output)["forecast"]
    assert (said["servers"], said["up"], said["to_the_floor"] >= 1) == (8, 1, True)
    assert said["all_on_at"] > said["made_at"]
    assert "all on at" in evac("show", "r").output


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[requests.Request]]:
    """What is in the store, while nobody leads."""

    async def nobody(store: object, run: str, ids: Sequence[str], *more: object) -> frozenset[str]:
        return frozenset(ids)

    monkeypatch.setattr("evac.app.runs.unsettled", nobody)

    async def look() -> list[requests.Request]:
        store = SqliteStore(tmp_path / "runs.db")
        entries = await store.list(requests.prefix_of("r"))
        await store.close()
        return [requests.decode(entry.key, entry.value) for entry in entries]

    return lambda: asyncio.run(look())


Asked = Callable[[], list[requests.Request]]


def test_a_limit_is_asked_for_and_stands_until_somebody_leads(
    evac: Callable[..., Result], asked: Asked
) -> None:
    said = evac("limit", "r", "power:pangyo/a", "80%", "--reason", "chiller 2 is down")
    assert "no leader has accepted it yet" in said.stderr
    (request,) = asked()
    assert (request.verb, request.limit, request.value) == ("limit", "power:pangyo/a", "80%")


@pytest.mark.parametrize("verb", ["retry", "attest"])
@pytest.mark.parametrize("place", [("--rack", "pangyo/h1/r1"), ("--hall", "pangyo/h1")])
def test_the_servers_of_a_rack_that_are_on_the_list_are_named_at_once(
    evac: Callable[..., Result], asked: Asked, verb: str, place: tuple[str, str]
) -> None:
    said = evac(verb, "r", *place, "--reason", "the switch is mended")
    assert "no leader has accepted it yet" in said.stderr
    assert [(one.verb, one.step) for one in asked()] == [(verb, "boot:s1")], "what is up is left alone"


def test_several_steps_are_asked_for_in_order_and_each_once(
    evac: Callable[..., Result], asked: Asked
) -> None:
    said = evac("skip", "r", "boot:s4", "boot:s3", "boot:s4", "--reason", "condemned")
    assert "no leader has accepted 2 of them yet" in said.stderr
    assert [(one.verb, one.step, one.reason) for one in asked()] == [
        ("skip", "boot:s4", "condemned"),
        ("skip", "boot:s3", "condemned"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give a STEP, or use --rack or --hall"),
        (("--rack", "pangyo/h1/r9", "--hall", "h7"), "no server of pangyo/h1/r9, h7 is on the hands-on list"),
    ],
)
def test_a_place_where_nobody_is_listed_is_refused_and_nothing_is_asked(
    evac: Callable[..., Result], asked: Asked, words: tuple[str, ...], said: str
) -> None:
    refused = evac("retry", "r", *words, "--reason", "mended")
    assert refused.exit_code
    assert said in f"{refused.stderr}{refused.exception}"
    assert asked() == []
