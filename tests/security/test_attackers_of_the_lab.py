"""The lab as it is locked, with its controllers running, and someone who reaches all of its addresses.

What each of them can do at worst is stated in the other modules, against single servers. Here all of it is
tried on three sites that watch each other, with a war room; afterwards a controller leads, and nothing was
started or moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import orjson
import pytest

from evac.app.access import digest_of
from evac.app.anchoring import strange_entries
from evac.cli.main import run as command
from evac.drivers.process.client import AgentAt, AgentClient, peer_of
from evac.drivers.process.driver import PATH
from evac.estate.codecs.bundle import open_bundle
from evac.model.errors import ActionError, EvacError
from evac.net.etcd_gateway import Gateway, text_key
from evac.store.locks import open_locks
from evac.store.opening import open_store
from evac.store.port import Store
from evac.web.access.port import OPEN_PATHS
from evac_lab import authorities, doctor, status
from evac_lab.servers import etcd
from evac_lab.site_servers import Ground, root_of_etcd
from evac_lab.state import LabFolder, store_url, wait_for
from evac_lab.world import Options
from tests.contract.ports import free_port
from tests.lab.conftest import free_offset, running_lab
from tests.security.test_attacker_on_the_network import ORDER
from tests.security.test_attacker_with_an_operators_token import CLEAR, FORM, MAY, UNAIMED
from tests.unit.bundle.test_bundle import digest_of as digest_of_bundle
from tests.unit.bundle.test_bundle_proof import rewritten
from tests.web.test_access_routes import CHANGES, OWN, READS, routes

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]


PROGRAM, PERSON = "evac_" + "o" * 43, "evac_" + "v" * 43
ACCESS = f"""people:
  vi: {{role: viewer, key: "{"A" * 43}="}}
tokens:
  ci: {{role: operator, hash: "sha256:{digest_of(PROGRAM)}"}}
  laptop: {{role: admin, of: vi, hash: "sha256:{digest_of(PERSON)}"}}
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LabFolder, str]]:
    """The lab, with few writes; and, starting, a war room on its store. Its access file knows a viewer and a
    program that is an operator. The room has no controller next to it: those of the lab lead.
    """
    access = tmp_path_factory.mktemp("room") / "access.yaml"
    access.write_text(ACCESS)
    with running_lab(Options(offset=free_offset(), writers=1, pause_s=1.0, plans_s=0)) as folder:
        site, url = folder.need().topology.sites[-1], f"127.0.0.1:{free_port()}"
        store = store_url(folder.need().topology, site.name)
        told = ("--store", store, "--site", site.name, "--listen", url, "--access", str(access))
        with (
            access.with_suffix(".log").open("wb") as log,
            subprocess.Popen(
                (sys.executable, "-m", "evac.web.serving", str(folder.estate), *told),
                stdin=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **authorities.environment(folder.certificates, site.name)},
            ) as process,
        ):
            yield folder, f"http://{url}"
            process.terminate()


@pytest.fixture(scope="module")
def lab(started: tuple[LabFolder, str]) -> LabFolder:
    return started[0]


@pytest.fixture(scope="module")
def room(started: tuple[LabFolder, str]) -> str:
    wait_for(lambda: answers(f"{started[1]}/healthz"), 120, "the war room")
    return started[1]


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=5).read(1))
    return False


def acts_of(lab: LabFolder) -> list[str]:
    """Everything in its store by which somebody asked for something."""

    async def look() -> list[str]:
        store = open_store(store_url(lab.need().topology))
        try:
            return [
                one.key
                for prefix in ("request/", "open/", "proposal/", "release/", "hold", "incident/")
                for one in await store.list(prefix)
            ]
        finally:
            await store.close()

    return asyncio.run(look())


def secrets_of(lab: LabFolder) -> set[str]:
    found = {path.read_text().strip() for path in lab.secrets.iterdir()}
    for path in lab.certificates.glob("*.key"):
        found.add("".join(path.read_text().splitlines()[1:-1]))
    assert len(found) > 10
    return found


def changes_of(room: str, token: str, chosen: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """What comes of each of these changes, as a form and as JSON."""
    fields = UNAIMED | CLEAR | {"verb": "approve", "reason": "why", "who": "kim"}
    found = {}
    headers = {"authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=room, headers=headers, timeout=60) as client:
        for method, path in sorted(chosen):
            where = re.sub(r"\{[^}]*\}", "x", path)
            if path.startswith("/v1"):
                where += "?reason=why" if method == "DELETE" else ""
                told = client.request(method, where, json=fields)
            else:
                told = client.request(method, where, content=urlencode(fields), headers=FORM)
            found[method, path] = told.status_code
    return found


def ground(lab: LabFolder) -> Ground:
    return Ground(lab, lab.need().topology)


def leads(lab: LabFolder, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while not status.leader_site(lab.need().topology):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_nothing_of_its_store_is_open(lab: LabFolder) -> None:
    for site in lab.need().topology.sites:
        assert asyncio.run(open_locks(store_url(lab.need().topology, site.name))) == ()
    row = next(one for one in doctor.examine(lab).checkups if one.subject == "store")
    assert (row.verdict, row.words.split(":")[0]) == ("good", "locked")


def test_a_foreign_certificate_and_none_reach_no_member_and_no_agent(lab: LabFolder, tmp_path: Path) -> None:
    authorities.make(tmp_path, lab.need().topology)
    ours, foreign = (authorities.store_files(one) for one in (lab.certificates, tmp_path))

    async def asked(url: str, tls: tuple[str, str, str]) -> None:
        gateway = Gateway([url], tls=tls)
        try:
            with pytest.raises(EvacError):
                await gateway.ask(0, "/v3/maintenance/status", {}, time.monotonic() + 2)
        finally:
            await gateway.close()

    for site in lab.need().topology.sites:
        for shown in (("", ""), (str(foreign.cert), str(foreign.key))):
            asyncio.run(asked(site.url("etcd"), (str(ours.ca), *shown)))
    mine = {**authorities.environment(tmp_path), "EVAC_AGENT_CA": str(lab.certificates / "ca.pem")}
    for site in lab.need().topology.sites:
        assert order_refused(lab, site.name, site.name, mine)


def order_refused(lab: LabFolder, site: str, key_of: str, environ: dict[str, str]) -> bool:
    """Whether the agent of a site refuses an order that is signed with the key of another one's."""
    known = ground(lab)
    at = AgentAt(site, known.topology.site(site).url("agent"), known.secrets.reference(f"agent-{key_of}"))

    async def sent() -> dict[str, Any]:
        client = AgentClient(peer_of(environ))
        try:
            return await client.send(at, PATH, {**ORDER, "unit": "messenger"}, 3.0)
        finally:
            await client.close()

    with pytest.raises(ActionError):
        asyncio.run(sent())
    return True


def test_the_key_of_one_agent_opens_no_other(lab: LabFolder) -> None:
    mine = dict(authorities.environment(lab.certificates))
    assert order_refused(lab, "anyang", "pangyo", mine)


def test_a_viewer_of_etcd_reads_and_changes_nothing(lab: LabFolder, tmp_path: Path) -> None:
    known = ground(lab)
    site = known.topology.sites[0]
    files = authorities.store_files(lab.certificates)
    secret = tmp_path / "viewer"
    secret.touch(mode=0o600)
    secret.write_text("viewer" * 6)

    async def story() -> None:
        root = root_of_etcd(known, site)
        await etcd.add_user(root, "viewer", secret.read_text(), "evac/", "READ")
        await root.close()
        gateway = Gateway(
            [site.url("etcd")],
            user="viewer",
            password=f"file:{secret}",
            tls=(str(files.ca), str(files.cert), str(files.key)),
        )
        key = text_key("evac/lease/leader")
        assert (await gateway.call("/v3/kv/range", {"key": key}))["kvs"]
        for path, body in (
            ("/v3/kv/put", {"key": key, "value": ""}),
            ("/v3/kv/deleterange", {"key": key}),
            ("/v3/auth/disable", {}),
        ):
            with pytest.raises(EvacError, match="permission denied"):
                await gateway.call(path, body)
        for lease in (await gateway.call("/v3/lease/leases", {}))["leases"]:
            with pytest.raises(EvacError):
                await gateway.call("/v3/lease/revoke", lease)
        await gateway.close()

    asyncio.run(story())
    assert leads(lab)


def test_whoever_has_the_login_of_evac_without_the_seal_makes_nothing_happen(lab: LabFolder) -> None:
    """They plant a request, a run, a plan, an observation and a leader, and delete the one that leads."""
    topology = lab.need().topology
    password, files = lab.secrets / "etcd", authorities.store_files(lab.certificates)

    async def story() -> None:
        gateway = Gateway(
            topology.etcd_urls(),
            user="evac",
            password=f"file:{password}",
            tls=(str(files.ca), str(files.cert), str(files.key)),
        )
        junk = text_key("0" * 16 + "\n" + orjson.dumps({"run": "theirs", "approvals": 0}).decode())
        for name in ("request/theirs/1", "open/theirs", "bound/theirs/x/000000", "incident/theirs", "hold"):
            await gateway.call("/v3/kv/put", {"key": text_key(f"evac/entry/{name}"), "value": junk})
        leader = {"key": text_key("evac/lease/leader")}
        await gateway.call("/v3/kv/deleterange", leader)
        await gateway.call("/v3/kv/put", {**leader, "value": text_key('{"owner": "me", "ttl_ms": 9000}')})
        await gateway.close()

    asyncio.run(story())
    assert leads(lab)

    async def seen(store: Store) -> tuple[list[str], list[str]]:
        runs = [one.key for one in await store.list("open/")]
        return runs, sorted(strange_entries(store))

    store = open_store(store_url(topology))

    async def looked() -> tuple[list[str], list[str]]:
        try:
            return await seen(store)
        finally:
            await store.close()

    runs, strange = asyncio.run(looked())
    assert runs == []
    assert strange == ["open/theirs"]
    rows = {one.name: one for one in status.look(lab, lab.need()).sites}
    assert rows["pangyo"].postgres.startswith("primary")

    def told() -> bool:
        return any("open/theirs" in path.read_text() for path in lab.logs.glob("*-controller.log"))

    wait_for(told, 120, "whoever leads to say that someone else writes to the store")


def test_a_viewer_of_its_war_room_changes_nothing_and_reads_no_secret(lab: LabFolder, room: str) -> None:
    """Every route, the streams too. The token says admin, its person is a viewer."""
    everything = {(method, route.path) for route in routes() for method in route.methods}
    changes = {one for one in everything if one[0] in CHANGES and one[1] not in (*READS, *OWN, *OPEN_PATHS)}
    assert len(changes) > 15
    assert set(changes_of(room, PERSON, changes).values()) <= {403, 404, 422}
    assert acts_of(lab) == []
    secrets, read = secrets_of(lab), 0
    with httpx2.Client(base_url=room, headers={"authorization": f"Bearer {PERSON}"}, timeout=60) as client:
        for method, path in sorted(everything):
            if method != "GET":
                continue
            with client.stream("GET", re.sub(r"\{[^}]*\}", "pangyo", path)) as told:
                streams = "event-stream" in told.headers.get("content-type", "")
                body = next(told.iter_text(), "") if streams else told.read().decode("utf-8", "replace")
            assert told.status_code != 500, path
            read += told.status_code == 200
            assert [one for one in secrets if one in body] == [], path
    assert read > 10


def test_a_program_of_an_operator_does_nothing_grave_in_its_war_room(lab: LabFolder, room: str) -> None:
    """A route that is not among those that stop something, or wait for a person, is refused."""
    changes = {(method, route.path) for route in routes() for method in route.methods & CHANGES}
    closed = {one for one in changes - MAY if one[1] not in (*READS, *OWN, *OPEN_PATHS)}
    assert set(changes_of(room, PROGRAM, closed).values()) <= {403, 404, 422}
    with httpx2.Client(base_url=room, headers={"authorization": f"Bearer {PROGRAM}"}, timeout=60) as client:
        assert client.post("/v1/hold", json={"reason": "they may stop things"}).status_code < 300
        given = client.request("DELETE", "/v1/hold", params={"reason": "and not end that"})
        assert (given.status_code, given.json()["code"]) == (403, "program")
    assert acts_of(lab) == ["hold"]
    assert command(["hold", "--release", "--reason", "over", "--store", store_url(lab.need().topology)]) == 0


def test_a_bundle_of_it_holds_no_secret_in_the_clear_and_starts_nothing_once_changed(
    lab: LabFolder, tmp_path: Path
) -> None:
    bundle, shares, into = tmp_path / "lab.bundle", tmp_path / "shares", tmp_path / "laptop"
    shares.mkdir()
    asked = ["bundle", str(lab.estate), "-o", str(bundle), "--store", store_url(lab.need().topology)]
    assert command([*asked, "--share", "2/3", "--shares-to", str(shares), "--budget", "1s", "-q"]) in (0, 3)
    whole = bundle.read_bytes()
    with open_bundle(bundle) as found:
        parts = b"".join(found.read(name) for name in found.parts)
    assert [one for one in secrets_of(lab) if one.encode() in parts] == []
    policy = rewritten(bundle, "estate/policy.yaml", b"mode: ", b"mode:  ")
    cut = tmp_path / "cut.bundle"
    cut.write_bytes(whole[: len(whole) // 2])
    proofs = [word for one in sorted(shares.iterdir())[:2] for word in ("--share", str(one))]
    digest = digest_of_bundle(bundle)
    for carried in (policy, cut):
        for proof in (proofs, ["--digest", digest], []):
            confirm = [word for site in lab.need().topology.sites for word in ("--confirm", site.name)]
            start = ["serve", "--bundle", str(carried), "--into", str(into), "--reason", "fire", *confirm]
            assert command([*start, *proof]) != 0
            assert not into.exists()
