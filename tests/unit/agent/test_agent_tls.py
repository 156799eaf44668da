"""Agents behind TLS: whom they believe, who believes them, new certificates without a new start."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_socket

from evac.agent.config import AgentConfig, TlsConfig, names_in, read_config
from evac.app.anchoring import check_agents
from evac.drivers.port import Action
from evac.drivers.process import ALLOWED, driver
from evac.drivers.process.client import HERE, AgentAt, AgentClient, AgentPeer, Lines, peer_of
from evac.drivers.process.driver import AgentAnchors, ProcessDriver
from evac.estate import load
from evac.model.errors import ActionError, EvacError, OutcomeUnknown, Permanent, Retryable
from evac.model.estate import Endpoint, Estate
from evac.net.tls import TlsFiles
from tests.unit.engine.agents import REFERENCE, at, config, running
from tests.unit.engine.authorities import Authority
from tests.web.rooms import ESTATE

MARK = {"what": "mark", "store": "db"}


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


def tls(files: TlsFiles, ca: Path, *names: str) -> TlsConfig:
    return TlsConfig(f"file:{files.cert}", f"file:{files.key}", f"file:{ca}", names)


def behind(folder: Path, made: TlsConfig, site: str = "pangyo") -> AgentConfig:
    (folder / site).mkdir(exist_ok=True)
    return replace(config(folder / site, tls=made), site=site)


async def asked(url: str, peer: AgentPeer, timeout_s: float = 5.0, site: str = "pangyo") -> Any:
    """What comes of an order: the answer, or the error."""
    client = AgentClient(peer)
    try:
        return await client.send(AgentAt(site, url, REFERENCE), driver.PERMIT_PATH, MARK, timeout_s)
    except ActionError as error:
        return error
    finally:
        await client.close()


async def seen(url: str, peer: AgentPeer) -> str:
    """What a witness makes of the agent."""
    driver = ProcessDriver(peer)
    try:
        async with asyncio.timeout(5):
            report = await driver.probe(Action("verify", "", "process", "pangyo", {"agent": url}), 5.0)
            return "up" if report.up else "down"
    except ConnectionError:
        return "down"
    except Exception:
        return "unknown"
    finally:
        await driver.close()


def test_each_side_proves_who_it_is_and_each_failure_has_its_own_code(tmp_path: Path) -> None:
    ours, strangers = Authority(tmp_path), Authority(tmp_path, "strangers")
    good = ours.sign("agent", "127.0.0.1", "pangyo.example")
    controller = ours.sign("controller", "controller.anyang.example")
    door = tls(good, ours.file, "controller.anyang.example", "controller.ansan.example")
    cases: list[tuple[TlsConfig, TlsFiles, str, type[ActionError]]] = [
        (door, replace(controller, ca=strangers.file), "tls-authority", Retryable),
        (door, replace(controller, cert=None, key=None), "tls-client-missing", OutcomeUnknown),
        (door, ours.sign("other", "evil.example"), "tls-client-name", Permanent),
        (
            door,
            replace(strangers.sign("foreign", "controller.anyang.example"), ca=ours.file),
            "tls-client-refused",
            OutcomeUnknown,
        ),
        (
            door,
            ours.sign("old", "controller.anyang.example", good=timedelta(hours=-1)),
            "tls-client-refused",
            OutcomeUnknown,
        ),
        (
            tls(ours.sign("ended", "127.0.0.1", good=timedelta(hours=-1)), ours.file),
            controller,
            "tls-expired",
            Retryable,
        ),
        (
            tls(ours.sign("early", "127.0.0.1", begin=timedelta(hours=1)), ours.file),
            controller,
            "tls-expired",
            Retryable,
        ),
        (tls(ours.sign("elsewhere", "10.9.9.9"), ours.file), controller, "tls-name", Retryable),
    ]

    async def story() -> None:
        async with running(behind(tmp_path, door)) as agent:
            assert agent.url.startswith("https://")
            assert (await asked(agent.url, AgentPeer(controller)))["mark"]
            assert await seen(agent.url, AgentPeer(controller)) == "up"
            plain = await asked(agent.url.replace("https", "http"), AgentPeer(controller))
            assert isinstance(plain, OutcomeUnknown), "nobody is heard in the clear"
        for made, files, code, kind in cases:
            async with running(behind(tmp_path, made)) as agent:
                error = await asked(agent.url, AgentPeer(files))
                assert isinstance(error, kind), (code, error)
                assert error.code == code
                assert error.hint
                assert await seen(agent.url, AgentPeer(files)) in ("unknown", "up"), (
                    "trust says nothing of a site"
                )

    asyncio.run(story())


def test_two_agents_serve_everything_that_controllers_ask_over_tls(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    peer = AgentPeer(ours.sign("controller", "controller.anyang.example"))
    doors = {site: tls(ours.sign(site, "127.0.0.1"), ours.file) for site in ("pangyo", "anyang")}

    async def story() -> None:
        async with (
            running(behind(tmp_path, doors["pangyo"])) as one,
            running(behind(tmp_path, doors["anyang"], "anyang")) as two,
        ):
            for agent in (one, two):
                keeper = AgentAnchors(at(agent.config, agent.url), peer)
                await keeper.put("run", 1, 3, "ab" * 32, 5.0)
                assert [row["records"] for row in await keeper.heads("run", 5.0)] == [3]
                await keeper.close()
                teller = driver.AgentGenerations(at(agent.config, agent.url), peer)
                assert (await teller.ask(7, "kim", 5.0))[0] == 7
                await teller.close()

    asyncio.run(story())


def test_new_certificates_are_taken_on_both_sides_without_a_new_start(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    (tmp_path / "now").mkdir()

    def install(authority: Authority, good: timedelta = timedelta(days=1)) -> None:
        for name in ("agent", "controller"):
            files = authority.sign(name, "127.0.0.1", good=good)
            for path in (files.cert, files.key):
                assert path is not None
                shutil.copy(path, tmp_path / "now" / path.name)
        shutil.copy(authority.file, tmp_path / "now" / "ca.pem")

    install(old)
    now = tmp_path / "now"
    peer = AgentPeer(TlsFiles(now / "ca.pem", now / "controller.pem", now / "controller.key"))
    stale = AgentPeer(TlsFiles(old.file, tmp_path / "controller.pem", tmp_path / "controller.key"))

    async def story() -> None:
        made = tls(TlsFiles(None, now / "agent.pem", now / "agent.key"), now / "ca.pem")
        async with running(behind(tmp_path, made)) as agent:
            assert agent.door is not None
            assert "mark" in await asked(agent.url, peer)
            before = agent.door.ends_ms
            install(new, timedelta(days=2))
            agent.door.read_again()
            assert "mark" in await asked(agent.url, peer)
            assert agent.door.ends_ms > before
            assert (await asked(agent.url, stale)).code == "tls-authority", (
                "the old authority is believed no more"
            )
            (now / "agent.pem").write_text("no certificate")
            agent.door.read_again()
            assert "tls-cert" in agent.door.problem
            assert "mark" in await asked(agent.url, peer), "what was read before goes on"
            install(new)
            agent.door.read_again()
            assert not agent.door.problem

    asyncio.run(story())


def test_a_renewal_that_is_half_done_fails_no_order(tmp_path: Path) -> None:
    """Certificate and key are two files: between the two writes they do not fit each other."""
    url, authority = "https://127.0.0.1:7070", Authority(tmp_path)
    files = authority.sign("controller", "127.0.0.1")
    lines = Lines(AgentPeer(files))
    before = lines.to(url)
    assert files.key is not None
    old_key = files.key.read_bytes()
    authority.sign("controller", "127.0.0.1")
    new_key = files.key.read_bytes()
    files.key.write_bytes(old_key)
    assert lines.to(url) is before, "the ones before are used"
    with pytest.raises(Retryable, match="cannot be used"):
        Lines(AgentPeer(files)).to(url)
    files.key.write_bytes(new_key)
    after = lines.to(url)
    assert after is not None
    assert after is not before


def test_nothing_is_plain_where_others_can_reach_it_unless_it_is_said(tmp_path: Path) -> None:
    made = config(tmp_path)
    for host in ("127.0.0.1", "::1", "localhost", "127.8.0.8"):
        replace(made, host=host)
    for host in ("0.0.0.0", "10.1.0.8", "agent.example", "::"):
        with pytest.raises(EvacError, match="allow_plain"):
            replace(made, host=host)
        replace(made, host=host, allow_plain=True, addresses=("10.1.0.8:7070",))
    for url in ("http://10.1.0.8:7070", "http://agent.example:7070"):
        with pytest.raises(Permanent, match="without TLS"):
            Lines(HERE).to(url)
        assert Lines(AgentPeer(plain=True)).to(url) is None
    assert Lines(HERE).to("http://127.0.0.1:7070") is None
    assert peer_of({"EVAC_AGENT_PLAIN": ALLOWED}).plain
    with pytest.raises(EvacError, match="EVAC_AGENT_PLAIN"):
        peer_of({"EVAC_AGENT_PLAIN": "1"})


def test_the_file_of_an_agent_names_certificates_by_reference(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    head = 'site = "pangyo"\nhost = "10.1.0.8"\nport = 7070\nstate = "state"\nsecret = "env:KEY"\n'
    table = (
        '[tls]\ncert = "file:/etc/a.pem"\nkey = "file:/etc/a.key"\nca = "file:/etc/ca.pem"\nnames = ["c"]\n'
    )
    file.write_text(head + table)
    made = read_config(file)
    assert made.tls is not None
    assert (made.tls.names, made.tls.files.ca) == (("c",), Path("/etc/ca.pem"))
    for wrong in (table.replace("file:/etc/a.key", "/etc/a.key"), table.replace("names", "nmes")):
        file.write_text(head + wrong)
        with pytest.raises(EvacError) as caught:
            read_config(file)
        assert caught.value.code == "agent-config"


def test_controllers_refuse_to_begin_with_agents_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estate(agent: str) -> Estate:
        unit = Endpoint(
            "unit", "web", "north", "process", {"agent": agent, "secret": REFERENCE, "unit": "web"}
        )
        return replace(load(ESTATE), endpoints=(unit,))

    for name in ("EVAC_AGENT_PLAIN", "EVAC_AGENT_CA", "EVAC_AGENT_CERT", "EVAC_AGENT_KEY"):
        monkeypatch.delenv(name, raising=False)
    check_agents(estate("http://127.0.0.1:7070"))
    check_agents(estate("https://10.1.0.8:7070"))
    with pytest.raises(EvacError, match="without TLS"):
        check_agents(estate("http://10.1.0.8:7070"))
    monkeypatch.setenv("EVAC_AGENT_CERT", str(tmp_path / "none.pem"))
    with pytest.raises(EvacError, match="cannot be used"):
        check_agents(estate("https://10.1.0.8:7070"))
    monkeypatch.setenv("EVAC_AGENT_PLAIN", ALLOWED)
    check_agents(estate("http://10.1.0.8:7070"))


def test_controllers_refuse_to_begin_with_two_agents_of_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estate(*secrets: str) -> Estate:
        ends = tuple(
            Endpoint(site, "web", site, "process", {"agent": f"http://{host}:7070", "secret": secret})
            for site, host, secret in zip(
                ("north", "south"), ("127.0.0.1", "127.0.0.2"), secrets, strict=True
            )
        )
        return replace(load(ESTATE), endpoints=ends)

    for name, text in (("A", "a" * 32), ("B", "b" * 32), ("COPY", "a" * 32)):
        monkeypatch.setenv(name, text)
    check_agents(estate("env:A", "env:B"))
    check_agents(estate("env:A", "env:MISSING"))
    with pytest.raises(EvacError) as caught:
        check_agents(estate("env:A", "env:COPY"))
    assert caught.value.code == "agent-key-shared"
    assert "env:A and env:COPY" in caught.value.message


def test_a_name_of_the_subject_counts_only_where_there_is_no_other() -> None:
    subject = ((("commonName", "cn.example"),),)
    assert names_in({"subject": subject}) == ["cn.example"]
    assert names_in({"subject": subject, "subjectAltName": (("DNS", "a"), ("IP Address", "::1"))}) == [
        "a",
        "::1",
    ]


def test_an_authority_that_says_nothing_of_keys_is_believed_by_every_python(tmp_path: Path) -> None:
    ours = Authority(tmp_path, bare=True)
    door, peer = (
        tls(ours.sign("agent", "127.0.0.1"), ours.file),
        AgentPeer(ours.sign("controller", "controller")),
    )

    async def story() -> None:
        async with running(behind(tmp_path, door)) as agent:
            assert "mark" in await asked(agent.url, peer)

    asyncio.run(story())
