"""The ends of certificates are told while there is time: by notices, figures and the doctor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_socket

from evac.app import doctor
from evac.app.agent_health import AgentHealth, clocks_of
from evac.app.certificates import CertificateChore, end_of, own_certificates, words_of
from evac.app.doctor import examine
from evac.drivers.process import CA, CERT, KEY, PLAIN
from evac.drivers.process.client import HERE, AgentAt, AgentPeer
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.engine.lead.watch_journal import Notice
from evac.model.estate import Endpoint, Estate, Site
from evac.model.run_policy import RunPolicy
from evac.views.doctor_view import diagnosis_text
from evac.web.metrics import Certificates
from evac_lab.doctor import _certificates
from tests.unit.agent.test_agent_tls import tls
from tests.unit.engine.agents import REFERENCE, at, config, running
from tests.unit.engine.authorities import Authority

DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


class Later(SystemClock):
    """A clock that is moved by hand."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


def test_words_say_when_a_certificate_ends_and_nothing_of_a_good_one() -> None:
    assert words_of("it", 40 * DAY_MS, 1) == ""
    assert words_of("it", 20 * DAY_MS, DAY_MS) == "it expires on 1970-01-21 00:00 UTC"
    assert words_of("it", DAY_MS, DAY_MS) == "it expired on 1970-01-02 00:00 UTC"
    assert words_of("it", 0, DAY_MS) == "it cannot be read"


def test_whoever_leads_tells_once_a_day_of_each_that_ends_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Authority(tmp_path)
    mine = ours.sign("controller", "controller", good=timedelta(days=10))
    monkeypatch.setenv(CERT, str(mine.cert))
    door = tls(ours.sign("agent", "127.0.0.1", good=timedelta(days=5)), ours.file)
    told: list[Notice] = []
    clock = Later()

    async def story() -> None:
        async with running(config(tmp_path, tls=door)) as agent:
            agents = {
                "pangyo": (at(agent.config, agent.url), AgentPeer(mine)),
                "anyang": (AgentAt("anyang", "http://127.0.0.1:9", REFERENCE), HERE),
            }
            chore = CertificateChore(agents, clock, told.append)
            await chore.look()
            await chore.look()
            assert [(one.site, one.words.partition(" expires on")[0]) for one in told] == [
                ("", "our certificate for agents"),
                ("pangyo", "the certificate of the agent of pangyo"),
            ]
            clock.ahead_ms = DAY_MS
            await chore.look()
            assert [one.data["code"] for one in told] == ["certificate-ends"] * 2 + ["clock-off"] + [
                "certificate-ends"
            ] * 2

    asyncio.run(story())


def test_figures_and_the_doctor_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Authority(tmp_path)
    soon, late = (
        ours.sign("soon", "a", good=timedelta(days=9)),
        ours.sign("late", "a", good=timedelta(days=90)),
    )
    assert soon.cert is not None
    assert late.cert is not None
    (found,) = Certificates({"agents": soon.cert, "war room": tmp_path / "none"}).collect()
    assert {one.labels["certificate"]: one.value for one in found.samples} == {
        "agents": end_of(soon.cert) / 1_000,
        "war room": 0,
    }
    monkeypatch.delenv(CERT, raising=False)
    assert own_certificates() == {}
    assert _certificates() == []
    monkeypatch.setenv(CERT, str(soon.cert))
    (row,) = _certificates()
    assert (row.verdict, "expires on" in row.words) == ("note", True)
    monkeypatch.setenv(CERT, str(late.cert))
    assert [row.verdict for row in _certificates()] == ["good"]


@pytest.mark.parametrize(("ahead_ms", "by"), [(300_000, "5 min behind"), (-7_200_000, "2 h ahead of")])
def test_a_clock_that_is_off_is_named_once_until_it_agrees_again_and_by_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_ms: int, by: str
) -> None:
    """An agent is the only other party: no witness votes."""
    ours = Authority(tmp_path)
    mine = ours.sign("controller", "controller", good=timedelta(days=90))
    for name, path in ((CERT, mine.cert), (KEY, mine.key), (CA, mine.ca)):
        monkeypatch.setenv(name, str(path))
    told: list[Notice] = []
    clock = Later()

    async def story() -> None:
        door = tls(ours.sign("agent", "127.0.0.1", good=timedelta(days=90)), ours.file)
        async with running(config(tmp_path, tls=door)) as agent:
            reach = (at(agent.config, agent.url), AgentPeer(mine))
            chore = CertificateChore({"pangyo": reach}, clock, told.append, "anyang")
            for clock.ahead_ms in (0, ahead_ms, ahead_ms, 0, ahead_ms):
                await chore.look()
            words = f"the clock of the agent at pangyo is {by} that of the controller at anyang"
            assert [(one.site, one.data["code"]) for one in told] == [("pangyo", "clock-off")] * 2
            assert {one.words for one in told} == {words}
            end = Endpoint(
                "web", "web", "pangyo", "process", {"agent": agent.url, "secret": REFERENCE, "unit": "web"}
            )
            estate = Estate("acme", sites=(Site("pangyo"),), endpoints=(end,))
            drivers = Drivers()
            try:
                assert (await examine(estate, RunPolicy(), drivers, 5)).is_well
                monkeypatch.setattr(doctor, "_wall_ms", clock.now_ms)
                found = await examine(estate, RunPolicy(), drivers, 5)
            finally:
                await drivers.close()
            said = f"the clock of the agent at pangyo is {by} that of this machine"
            assert (found.clocks, found.is_well) == ((said,), False)
            assert f"{said} [clock-off]" in diagnosis_text(found, 160, False)

    asyncio.run(story())


def test_the_doctor_answers_also_with_a_wrong_setting_for_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLAIN, "yes")

    async def story() -> None:
        drivers = Drivers()
        try:
            assert (await examine(Estate("acme", sites=(Site("pangyo"),)), RunPolicy(), drivers, 5)).is_well
        finally:
            await drivers.close()

    asyncio.run(story())


def test_of_several_agents_the_one_that_most_disagree_with_is_named() -> None:
    behind = {site: AgentHealth(0, 300_000) for site in ("pangyo", "ansan")}
    assert clocks_of(behind, "this machine") == {
        "": "the clock of this machine is 5 min behind that of most of the others"
    }
