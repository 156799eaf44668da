"""The page Doctor and its API: asked when somebody wants it, never waited for, the same as evac doctor."""

import asyncio
import json
from importlib import resources
from pathlib import Path
from typing import Any

import httpx2
import pytest

from evac.app.demo import room as demo_room
from evac.app.doctor import examine_files
from evac.engine.clock import SystemClock
from evac.model.errors import EvacError
from evac.model.observation import Observation
from evac.model.situation import Effects, LostNow
from evac.office.doctor import DoctorDesk, DoctorSeen, Examiner
from evac.views.doctor_view import Ability, Diagnosis
from evac.web.pages.doctor import answer_of, figures, rows_of, step_of
from tests.web.rooms import BASE, office_of, primed, room_of
from tests.web.test_access_routes import Named

WELL = Ability("db", "store", "promote at muc", "automatic", "db-muc")
BROKEN = Ability(
    "db", "store", "promote at zrh", "by hand", "db-zrh", "no-answer", "it is silent", "start it"
)
HAND = Ability(
    "web", "service", "start", "by hand", why="no endpoint in the estate can do it", next="add one"
)
LOST = Ability("carts", "store", "recover after a loss", "nobody", why="one copy", next="add a copy")
FOUND = Diagnosis("acme", 5_000, (WELL, BROKEN, HAND, LOST), 2)
ESTATE = """\
evac: 1
name: acme
sites: {north: {}, south: {}}
services: {shop: {tier: 0, sites: [north]}}
stores:
  carts: {engine: redis, members: [{at: north, mode: primary}]}
  orders: {engine: postgresql, members: [{at: north, mode: primary}, {at: south, mode: async}]}
endpoints:
  orders-south: {for: orders, at: south, driver: postgres, settings: {host: 127.0.0.1, port: 1}}
"""


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("doctor") / "estate.yaml"
    path.write_text(ESTATE)
    return path


def test_the_answer_counts_and_what_fails_comes_first() -> None:
    words, more, look = answer_of(DoctorSeen(found=FOUND))
    assert words == "evac can do everything for 0 of 3 services and stores."
    assert more.startswith("db-zrh cannot do what it is for. 2 endpoints asked")
    assert look == "bad"
    assert [card["value"] for card in figures(FOUND)] == ["0 of 3", "2 of 3", "1 of 3", "1"]
    steps = [step_of(step) for step in FOUND.next_steps()]
    assert [step["words"] for step in steps] == ["start it", "add a copy", "add one"]
    assert (steps[0]["endpoint"], steps[1]["endpoint"]) == ("db-zrh", "")
    assert [row["name"] for row in rows_of(FOUND)] == ["carts", "db", "web"]
    assert rows_of(FOUND)[1]["does"] == "promote at muc"


def test_what_was_never_asked_is_not_called_good() -> None:
    assert answer_of(DoctorSeen())[2] == ""
    well = Diagnosis("acme", 1, (WELL,), 1)
    assert answer_of(DoctorSeen(found=well)) == (
        "evac can do everything for every service and store.",
        "1 endpoint asked; nothing was changed.",
        "good",
    )
    assert answer_of(DoctorSeen(found=Diagnosis("acme", 1, (), 0)))[2] == "warn"


def test_one_examination_at_a_time_and_the_answer_stays_while_the_next_fails() -> None:
    async def story() -> None:
        gate, ends = asyncio.Event(), iter((FOUND, EvacError("policy-invalid", "no", "fix"), ValueError("x")))

        async def examine(now_ms: int) -> Diagnosis:
            await gate.wait()
            found = next(ends)
            if isinstance(found, Exception):
                raise found
            return found

        async def end() -> None:
            gate.set()
            while desk.seen.began_ms:
                await asyncio.sleep(0)
            gate.clear()

        desk = DoctorDesk(SystemClock(), examine)
        assert desk.begin("ann")
        assert not desk.begin("bob")
        assert (desk.seen.asked_by, desk.seen.found) == ("ann", None)
        await end()
        assert desk.seen.found is FOUND
        for code in ("policy-invalid", "internal-error"):
            assert desk.begin("bob")
            await end()
            assert (desk.seen.found, desk.seen.code) == (FOUND, code)
        assert desk.begin("eve")
        await desk.close()

    asyncio.run(story())


@pytest.mark.enable_socket
def test_the_page_asks_without_waiting_and_shows_what_evac_doctor_says(estate: Path) -> None:
    async def story() -> None:
        office = office_of(estate=estate)
        office.doctor = DoctorDesk(office.clock, Examiner(estate, None, lambda: office.published))
        transport = httpx2.ASGITransport(room_of(await primed(office), Named()))
        async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:

            async def ask(method: str, path: str, role: str, **more: Any) -> httpx2.Response:
                return await client.request(method, path, headers={"x-role": role, "origin": BASE}, **more)

            page = (await ask("GET", "/doctor", "viewer")).text
            assert "No check has been made yet" in page
            assert "<form" not in page
            assert '<a href="/doctor" aria-current="page">' in page
            assert (await ask("POST", "/doctor", "viewer")).status_code == 403
            assert (await ask("POST", "/v1/doctor", "viewer")).status_code == 403
            assert (await ask("POST", "/doctor", "operator")).headers["location"] == "/doctor"
            page = (await ask("GET", "/doctor", "operator")).text
            assert "Asking every system since" in page
            assert "<form" not in page
            told = (await ask("POST", "/v1/doctor", "operator")).json()
            assert told["began_ms"], "it goes on"
            while office.doctor.seen.began_ms:
                await asyncio.sleep(0.02)
            answer = await ask("GET", "/v1/doctor", "viewer")
            found = answer.json()["found"]
            same = await examine_files(estate, None, found["asked_at_ms"])
            assert found["abilities"] == json.loads(json.dumps([vars_of(a) for a in same.abilities]))
            page = (await ask("GET", "/doctor", "operator")).text
            for words in ("Ask all systems again", "orders-south", "lists no backup of it", "Add a copy or"):
                assert words in page
            tag = {"x-role": "viewer", "if-none-match": answer.headers["etag"]}
            assert (await client.get("/v1/doctor", headers=tag)).status_code == 304
        await office.close()

    asyncio.run(story())


def vars_of(ability: Ability) -> dict[str, Any]:
    return {name: getattr(ability, name) for name in ability.__slots__}


def test_a_room_that_reaches_no_systems_says_so() -> None:
    async def story() -> None:
        office = await primed(office_of())
        transport = httpx2.ASGITransport(room_of(office))
        async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
            answer = await client.post("/v1/doctor", headers={"origin": BASE})
            assert (answer.status_code, answer.json()["detail"]) == (
                409,
                "this war room cannot reach any systems",
            )
        await office.close()

    asyncio.run(story())


@pytest.mark.parametrize("lost", [(), ("pangyo",)])
def test_the_doctor_of_the_demo_asks_the_simulated_systems_only(
    tmp_path: Path, lost: tuple[str, ...]
) -> None:
    """Sockets are refused here, and the hosts of the company do not exist."""
    for name in demo_room.FILES:
        text = resources.files("evac.app").joinpath("demo_company", name).read_text("utf-8")
        (tmp_path / name).write_text(text)
    seen = Observation(0, effects=Effects(tuple(LostNow(site, "lost") for site in lost)))
    found = asyncio.run(examine_files(tmp_path, None, 0, seen, demo_room.systems_of))
    failing = {one.endpoint for one in found.abilities if one.is_broken}
    assert found.endpoints > 30
    assert {end.rpartition("-")[2] for end in failing} == set(lost)
