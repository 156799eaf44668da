"""Someone who reaches a locked etcd: without a certificate, with one of another authority, with the login of
a viewer, and with the login of evac itself but without the key of its seal.

The worst they can do: without a login nothing; as a viewer read estates, plans and names, list leases, and
make etcd elect; with evac's own login delete entries, and keep a controller from leading for as long as they
are at it. What they leave behind stops no controller.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.patroni.dcs import Dcs
from evac.drivers.port import Order
from evac.model.errors import ActionError, Corrupt, Unavailable
from evac.net.etcd_gateway import Gateway, Refused, text_key
from evac.net.tls import TlsFiles, client_context
from evac.notices.values import Channel
from evac.office.notices import subscribers
from evac.store.opening import open_store
from evac.store.port import Put
from evac_lab import authorities
from evac_lab.servers import etcd
from evac_lab.state import Site, Topology
from tests.unit.store.locked_etcd import Ground, ground

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]
READ = {"key": text_key("evac/entry/plan"), "range_end": text_key("evac/entry/plao")}


@pytest.fixture(scope="module")
def made() -> Iterator[Ground]:
    """Locked, with an entry and a leader of evac's, and a viewer besides."""
    with ground() as found:
        found.lock()

        async def story(root: Gateway) -> None:
            await etcd.add_user(root, "viewer", found.password("viewer"), "evac/", "READ")
            store = open_store(found.url(**found.users()))
            await store.transact([], [Put("plan/1", b"ours")])
            await store.acquire("leader", "pangyo/1", 600_000)
            await store.close()

        found.do(story, "root")
        yield found


def refused(made: Ground, path: str, body: dict[str, Any], user: str) -> bool:
    """Whether etcd refuses a call of that user."""

    async def asked(gateway: Gateway) -> None:
        with pytest.raises((Refused, Unavailable)) as caught:
            await gateway.call_once(path, body, asyncio.get_running_loop().time() + 2)
        assert "permission denied" in str(caught.value) or "user name is empty" in str(caught.value)

    made.do(asked, user)
    return True


def answered(url: str, line: ssl.SSLContext | None = None) -> bool:
    """Whether anything at all is told to a client that shows what this context shows."""
    try:
        urllib.request.urlopen(f"{url}/version", timeout=2, context=line).read()
    except OSError:
        return False
    return True


def test_without_a_certificate_of_our_authority_nobody_gets_in(made: Ground, tmp_path: Path) -> None:
    authorities.make(tmp_path, Topology("loopback", 0, (Site("a", 1, "127.0.0"),), "127.0.0.1"))
    ours, foreign = (authorities.store_files(folder) for folder in (made.certificates, tmp_path))
    none, theirs = TlsFiles(ours.ca), TlsFiles(ours.ca, foreign.cert, foreign.key)
    assert answered(made.member.url, client_context(ours))
    for port in (made.member.client_port, made.member.peer_port):
        url = f"https://127.0.0.1:{port}"
        assert not answered(url, client_context(none))
        assert not answered(url, client_context(theirs))
        assert not answered(url.replace("https:", "http:"))


def test_a_certificate_alone_reads_and_writes_nothing(made: Ground) -> None:
    assert refused(made, "/v3/kv/range", READ, "")
    assert refused(made, "/v3/kv/put", {"key": text_key("evac/entry/x"), "value": ""}, "")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v3/kv/put", {"key": text_key("evac/entry/request/run/1"), "value": text_key("approve")}),
        ("/v3/kv/deleterange", {"key": text_key("evac/entry/plan/1")}),
        ("/v3/kv/deleterange", {"key": text_key("evac/lease/leader")}),
        ("/v3/kv/range", {"key": text_key("other/"), "range_end": text_key("other0")}),
        ("/v3/auth/user/add", {"name": "me", "password": "x"}),
        ("/v3/auth/user/changepw", {"name": "evac", "password": "x"}),
        ("/v3/auth/role/grant", {"name": "viewer", "perm": {"permType": "WRITE", "key": "AA=="}}),
        ("/v3/auth/disable", {}),
        ("/v3/cluster/member/add", {"peerURLs": ["https://127.0.0.9:1"]}),
        ("/v3/cluster/member/remove", {"ID": "1"}),
        ("/v3/maintenance/snapshot", {}),
    ],
)
def test_a_viewer_changes_nothing_and_takes_no_copy(made: Ground, path: str, body: dict[str, Any]) -> None:
    assert refused(made, path, body, "viewer")


def test_a_viewer_ends_no_lease_of_a_leader(made: Ground) -> None:
    async def story(gateway: Gateway) -> None:
        leases = (await gateway.call("/v3/lease/leases", {}))["leases"]
        assert len(leases) == 1
        with pytest.raises(Refused, match="permission denied"):
            await gateway.call("/v3/lease/revoke", {"ID": leases[0]["ID"]})

    made.do(story, "viewer")


@pytest.mark.parametrize(
    ("path", "key"), [("/v3/kv/put", "other/x"), ("/v3/kv/put", "evad"), ("/v3/kv/put", "e")]
)
def test_the_login_of_evac_reaches_no_other_keys(made: Ground, path: str, key: str) -> None:
    assert refused(made, path, {"key": text_key(key), "value": ""}, "evac")
    assert refused(made, "/v3/auth/disable", {}, "evac")
    assert refused(made, "/v3/cluster/member/remove", {"ID": "1"}, "evac")


def test_whoever_takes_the_page_where_users_subscribe_reaches_only_subscribers(
    made: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That page has the seal; a user of its own keeps it from requests, runs and votes."""
    (made.secrets / "page").touch(mode=0o600)
    (made.secrets / "page").write_text("page" * 12)
    monkeypatch.setenv("EVAC_PAGE_KEY", "k" * 44)
    channel = Channel("users", "mail", "env:X", "env:EVAC_PAGE_KEY", sender="a@b.kr", join="https://b.kr/s")
    first, second = (f"evac/entry/{one}" for one in (subscribers.ASKED, subscribers.READER))

    async def granted(root: Gateway) -> None:
        await etcd.add_user(root, "page", made.password("page"), first)
        keys = {"permType": "READWRITE", "key": text_key(second), "range_end": text_key(second[:-1] + "0")}
        await root.call("/v3/auth/role/grant", {"name": "page", "perm": keys})

    async def used(_: Gateway) -> None:
        store, vault = open_store(made.url(**made.users("page"))), subscribers.vault_of(channel)
        await subscribers.ask(store, vault, "kim@b.kr", "ko", 5)
        told = {"address": "kim@b.kr", "language": "ko", "at_ms": 5, "until_ms": 9}
        await subscribers.confirm(store, vault, vault.seal("confirm", told), 6)
        assert [one.address for one in await subscribers.exported(store, vault)] == ["kim@b.kr"]
        assert await subscribers.remove(store, vault, vault.id_of("kim@b.kr"))
        await store.close()

    made.do(granted, "root")
    made.do(used, "page")
    assert refused(made, "/v3/kv/range", READ, "page")
    for key in ("evac/entry/request/r/1", "evac/entry/journal/r/1", "evac/lease/leader"):
        assert refused(made, "/v3/kv/put", {"key": text_key(key), "value": ""}, "page")


def test_what_is_planted_with_the_login_of_evac_is_passed_over(made: Ground) -> None:
    """Junk, an entry as evac writes it but without the seal, and one that is moved to another name."""

    async def story(gateway: Gateway) -> None:
        store = open_store(made.url(**made.users()))
        ours = (await gateway.call("/v3/kv/range", READ))["kvs"][0]["value"]
        for name, value in {"2": "junk", "3": "0" * 16 + "\napprove"}.items():
            await gateway.call(
                "/v3/kv/put", {"key": text_key(f"evac/entry/plan/{name}"), "value": text_key(value)}
            )
        await gateway.call("/v3/kv/put", {"key": text_key("evac/entry/plan/4"), "value": ours})
        assert [one.key for one in await store.list("plan/")] == ["plan/1"]
        for name in ("2", "3", "4"):
            with pytest.raises(Corrupt):
                await store.get(f"plan/{name}")
        await store.close()

    made.do(story, "evac")


@pytest.mark.parametrize("value", ["junk", '{"owner": "me", "ttl_ms": 5000}', ""])
def test_a_lease_that_is_planted_keeps_nobody_from_leading(made: Ground, value: str) -> None:
    """One that cannot be read, or that no lease of etcd would ever end."""

    async def story(gateway: Gateway) -> None:
        store = open_store(made.url(**made.users()))
        await gateway.call("/v3/kv/put", {"key": text_key("evac/lease/planted"), "value": text_key(value)})
        assert await store.holder("planted") is None
        lease = await store.acquire("planted", "pangyo/1", 5_000)
        await store.renew(lease)
        held = await store.holder("planted")
        assert held is not None
        assert (held.owner, held.token) == ("pangyo/1", lease.token)
        await store.release(lease)
        await store.close()

    made.do(story, "evac")


def test_false_passwords_lock_nobody_out(made: Ground) -> None:
    async def story(gateway: Gateway) -> None:
        for _ in range(20):
            with pytest.raises(Refused, match="authentication failed"):
                await gateway.call("/v3/auth/authenticate", {"name": "evac", "password": "guess"})

    made.do(story)
    store = open_store(made.url(**made.users()))

    async def works() -> None:
        assert await store.get("plan/1")
        await store.close()

    asyncio.run(works())


def test_the_etcd_of_patroni_is_locked_too(made: Ground) -> None:
    """The driver works with a user that may touch Patroni's keys and its own claim, and with nothing less.
    That user reaches no key of evac's store.
    """
    ca, cert, key = made.shown
    tls = {"etcd_ca": f"file:{ca}", "etcd_cert": f"file:{cert}", "etcd_key": f"file:{key}"}

    async def keys(root: Gateway) -> None:
        await etcd.add_user(root, "patroni", made.password("patroni"), "/service/orders/")
        claims = {
            "permType": "READWRITE",
            "key": text_key("/evac/patroni/"),
            "range_end": text_key("/evac/patroni0"),
        }
        await root.call("/v3/auth/role/grant", {"name": "patroni", "perm": claims})
        members = {"leader": "a", "members/a": '{"role": "primary"}', "sync": '{"leader": "a"}'}
        for name, value in members.items():
            body = {"key": text_key(f"/service/orders/{name}"), "value": text_key(value)}
            await root.call("/v3/kv/put", body)

    made.do(keys, "root")

    async def claimed(user: str, scope: str = "orders") -> str:
        login = {f"etcd_{name}": value for name, value in (made.users(user) if user else {}).items()}
        async with Dcs({"etcd": made.member.url, "scope": scope, **tls, **login}, 10).open() as dcs:
            order = Order("run", "fence:db", 1, 7, 1, "test", 10, "key")
            await dcs.claim(await dcs.read(), order, "fence")
            seen = await dcs.read()
            return f"{seen.leader} {seen.claim.token}"

    assert asyncio.run(claimed("patroni")) == "a 7"
    for user, scope in (("", "orders"), ("evac", "orders"), ("viewer", "orders"), ("patroni", "other")):
        with pytest.raises(ActionError) as caught:
            asyncio.run(claimed(user, scope))
        assert caught.value.code == "etcd-unreachable"
    assert refused(made, "/v3/kv/range", READ, "patroni")
    assert refused(made, "/v3/kv/put", {"key": text_key("evac/entry/x"), "value": ""}, "patroni")
