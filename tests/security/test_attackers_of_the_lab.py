"""The lab as it is locked, with its controllers running, and someone who reaches all of its addresses.

What each of them can do at worst is stated in the other modules, against single servers. Here all of it is
tried on three sites that watch each other; afterwards a controller leads, and nothing was started or moved.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from evac.app.anchoring import strange_entries
from evac.drivers.process.client import AgentAt, AgentClient, peer_of
from evac.drivers.process.driver import PATH
from evac.model.errors import ActionError, EvacError
from evac.net.etcd_gateway import Gateway, text_key
from evac.store.locks import open_locks
from evac.store.opening import open_store
from evac.store.port import Store
from evac_lab import authorities, doctor, status
from evac_lab.servers import etcd
from evac_lab.site_servers import Ground, root_of_etcd
from evac_lab.state import LabFolder, store_url
from tests.lab.conftest import running_lab
from tests.security.test_attacker_on_the_network import ORDER

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[LabFolder]:
    with running_lab() as folder:
        yield folder


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
    said = "".join(path.read_text() for path in lab.logs.glob("*-controller.log"))
    assert "open/theirs" in said, "whoever leads says that someone else writes to the store"
