"""etcd when replies are lost, answers are large, members are not there, and behind passwords and TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evac.model.errors import Conflict, LeaseLost, LockHeld, StoreError, Unavailable
from evac.net import etcd_gateway
from evac.store.etcd import EtcdStore
from evac.store.port import MAX_CHANGES, Compare, Delete, Put
from tests.contract.store.conftest import connected
from tests.contract.store.members import Members, etcd_program
from tests.promptness import Stopwatch

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(etcd_program() is None, reason="etcd is not installed: apt-get install etcd-server"),
]


@dataclass
class Proxy:
    """Stands before a member and loses the answers of the next `lose` requests that hold `words`."""

    target: int
    words: bytes = b"/v3/kv/txn"
    lose: int = 0
    lost: int = 0
    port: int = 0
    _server: asyncio.Server | None = field(default=None)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        mute = asyncio.Event()
        answering = asyncio.create_task(self._answer(up_reader, writer, mute))
        try:
            while piece := await reader.read(1 << 20):
                if self.lose and self.words in piece:
                    self.lose -= 1
                    self.lost += 1
                    mute.set()
                up_writer.write(piece)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            answering.cancel()
            up_writer.close()
            writer.close()
            self._tasks.discard(task)

    @staticmethod
    async def _answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        """Passes answers on; one that shall be lost ends the connection once it is there."""
        while piece := await reader.read(1 << 20):
            if mute.is_set():
                break
            writer.write(piece)
        writer.close()


@asynccontextmanager
async def behind_proxy(members: Members, **options: object) -> AsyncIterator[tuple[Proxy, EtcdStore]]:
    async with Proxy(members.ports[0]) as proxy:
        prefix = f"proxied-{proxy.port}"
        async with connected(proxy.endpoint, prefix=prefix, **options) as store:
            yield proxy, store


@pytest.mark.parametrize("lost", [1, 3])
def test_a_transaction_whose_reply_is_lost_is_read_back(etcd_one: Members, lost: int) -> None:
    async def story() -> None:
        async with behind_proxy(etcd_one) as (proxy, store):
            proxy.lose = lost
            first = await store.transact([Compare("a", 0)], [Put("a", b"1"), Put("b", b"2")])
            entry = await store.get("a")
            assert entry is not None
            assert entry.revision == first
            proxy.lose = lost
            second = await store.transact([Compare("a", first)], [Put("a", b"2"), Delete("b")])
            entry = await store.get("a")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"2", second)
            proxy.lose = lost
            with pytest.raises(Conflict):
                await store.transact([Compare("a", first)], [Put("a", b"3")])
            assert proxy.lost == 3 * lost

    asyncio.run(story())


def test_a_put_without_compare_is_seen_or_unknown_but_never_sent_twice(etcd_one: Members) -> None:
    async def story() -> None:
        async with behind_proxy(etcd_one) as (proxy, store):
            before = await store.transact([], [Put("vote", b"down")])
            proxy.lose = 1
            revision = await store.transact([], [Put("vote", b"up")])
            assert revision == before + 1
            entry = await store.get("vote")
            assert entry is not None
            assert entry.revision == revision
            proxy.lose = 1
            with pytest.raises(Unavailable):
                await store.transact([Compare("vote", revision)], [Delete("vote")])
            assert await store.get("vote") is None

    asyncio.run(story())


def test_counting_through_lost_replies_counts_each_once(etcd_one: Members) -> None:
    async def story() -> None:
        async with behind_proxy(etcd_one) as (proxy, store):
            await store.transact([Compare("n", 0)], [Put("n", b"0")])
            counted = unknown = 0

            async def count() -> None:
                nonlocal counted, unknown
                for _ in range(15):
                    entry = await store.get("n")
                    assert entry is not None
                    value = b"%d" % (int(entry.value) + 1)
                    proxy.lose = 1
                    try:
                        await store.transact([Compare("n", entry.revision)], [Put("n", value)])
                        counted += 1
                    except Conflict:
                        pass
                    except Unavailable:
                        unknown += 1

            await asyncio.gather(*(count() for _ in range(4)))
            entry = await store.get("n")
            assert entry is not None
            assert proxy.lost > 10
            assert counted > 5
            assert counted <= int(entry.value) <= counted + unknown
            assert unknown < 5, "history tells who wrote what"

    asyncio.run(story())


def test_a_lease_whose_reply_is_lost_is_still_ours(etcd_one: Members) -> None:
    async def story() -> None:
        async with behind_proxy(etcd_one) as (proxy, store):
            for words in (b"/v3/lease/grant", b"/v3/kv/txn"):
                proxy.words, proxy.lose = words, 1
                lease = await store.acquire("leader", "me", 5_000)
                holder = await store.holder("leader")
                assert holder is not None
                assert holder.token == lease.token
                with pytest.raises(LockHeld):
                    await store.acquire("leader", "other", 5_000)
                proxy.words, proxy.lose = b"/v3/lease/keepalive", 1
                await store.renew(lease)
                await store.release(lease)
            with pytest.raises(LeaseLost):
                await store.renew(lease)

    asyncio.run(story())


def test_what_a_person_deleted_is_a_lost_lease(etcd_one: Members) -> None:
    async def story() -> None:
        async with connected(etcd_one.endpoints[0], prefix="by-hand") as store:
            lease = await store.acquire("leader", "me", 5_000)
            etcdctl(etcd_one, "del", "by-hand/lease/leader")
            with pytest.raises(LeaseLost):
                await store.renew(lease)
            with pytest.raises(LeaseLost):
                await store.transact([], [Put("a", b"")], lease)
            etcdctl(etcd_one, "put", "by-hand/entry/odd", "written by hand")
            with pytest.raises(StoreError) as caught:
                await store.get("odd")
            assert caught.value.code == "store-corrupt"

    asyncio.run(story())


def etcdctl(members: Members, *arguments: str) -> str:
    program = shutil.which("etcdctl")
    if program is None:
        pytest.skip("etcdctl is not installed: apt-get install etcd-client")
    argv = [program, "--endpoints", members.endpoints[0], *arguments]
    return subprocess.run(argv, check=True, capture_output=True, timeout=10, text=True).stdout


def test_a_list_that_is_too_large_for_one_answer_comes_in_parts(
    etcd_one: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "ANSWER_MOST_BYTES", 300_000)

    async def story() -> None:
        async with connected(etcd_one.endpoints[0], prefix="large") as store:
            for number in range(20):
                await store.transact([], [Put(f"p/{number:02d}", b"x" * 60_000)])
            assert [entry.key for entry in await store.list("p/")] == [f"p/{n:02d}" for n in range(20)]
            await store.transact([], [Put("q", b"x" * 400_000)])
            with pytest.raises(StoreError) as caught:
                await store.list("q")
            assert caught.value.code == "etcd-answer"

    asyncio.run(story())


def test_members_that_are_not_there_cost_little_and_the_preferred_is_used_again(etcd_one: Members) -> None:
    async def story() -> None:
        gone = "http://127.0.0.1:9"
        async with connected(gone, *etcd_one.endpoints, prefix="rotation") as store:
            watch = Stopwatch()
            for number in range(20):
                await store.transact([Compare(f"k{number}", 0)], [Put(f"k{number}", b"")])
            assert watch.counted_s < 2
        async with connected(gone, deadline_s=0.3) as store:
            with pytest.raises(Unavailable):
                await store.get("a")

    asyncio.run(story())


def test_an_etcd_that_is_full_is_unavailable_says_so_and_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its leader still leads, which keeps primaries permitted, and no one else begins to."""
    members = Members(tmp_path, 1, extra=("--quota-backend-bytes", "3000000"))

    async def story() -> None:
        async with connected(members.endpoints[0]) as store:
            # etcd counts its space each time it commits to disk, a few times a second.
            keys = [f"k{number:03d}" for number in range(400)]
            written = 0
            lease = await store.acquire("leader", "a", 60_000)

            async def fill() -> None:
                nonlocal written
                for key in keys:
                    await store.transact([Compare(key, 0)], [Put(key, b"x" * 200_000)])
                    written += 1

            with pytest.raises(Unavailable, match="space") as caught:
                await fill()
            assert "compact" in caught.value.hint
            assert written > 2
            assert len(await store.list("k")) == written
            await store.renew(lease)
            with pytest.raises(Unavailable):
                await store.acquire("other", "b", 60_000)
            said = [one for one in caplog.messages if "nothing can be written" in one]
            assert len(said) == 1, "once, however many writes fail"
            assert said[0].endswith(caught.value.hint)
            # As the message and the page *Secure the store* say:
            gateway = etcd_gateway.Gateway(members.endpoints)
            await store.transact([], [Delete(key) for key in keys[:written]][:MAX_CHANGES])
            head = await gateway.call("/v3/kv/range", {"key": etcd_gateway.text_key("x")})
            compacted = {"revision": head["header"]["revision"], "physical": True}
            alarms = (await gateway.call("/v3/maintenance/alarm", {"action": "GET"}))["alarms"]
            disarm = {"action": "DEACTIVATE", **alarms[0]}
            for path, body in (
                ("/v3/kv/compaction", compacted),
                ("/v3/maintenance/defragment", {}),
                ("/v3/maintenance/alarm", disarm),
            ):
                await gateway.call(path, body)
            await gateway.close()
            await store.transact([Compare("after", 0)], [Put("after", b"x")])

    try:
        members.start()
        asyncio.run(story())
    finally:
        members.stop()


def test_a_password_is_asked_for_by_reference_and_its_token_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = Members(tmp_path, 1, extra=("--auth-token-ttl", "1"))
    secret = tmp_path / "password"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    monkeypatch.setenv("EVAC_TEST_PASSWORD", "wrong horse")

    async def story() -> None:
        endpoint = members.endpoints[0]
        async with connected(endpoint, user="root", password=f"file:{secret}") as store:
            await store.transact([], [Put("a", b"1")])
            await asyncio.sleep(2.5)  # simple tokens of etcd end after a second without use
            await store.transact([], [Put("a", b"2")])
        for options in ({}, {"user": "root", "password": "env:EVAC_TEST_PASSWORD"}):
            async with connected(endpoint, **options) as store:
                with pytest.raises(StoreError) as caught:
                    await store.get("a")
                assert "horse" not in str(caught.value) + caught.value.hint
        for reference in ("plain horse", "env:EVAC_NOT_SET", "file:/nonexistent/horse-free"):
            async with connected(endpoint, user="root", password=reference) as store:
                with pytest.raises(StoreError) as caught:
                    await store.get("a")
                assert caught.value.code == "store-secret"
                assert "plain horse" not in str(caught.value)

    try:
        members.start()
        etcdctl(members, "user", "add", "root:correct horse")
        etcdctl(members, "user", "grant-role", "root", "root")
        etcdctl(members, "auth", "enable")
        asyncio.run(story())
    finally:
        members.stop()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "etcd of a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, secret


def test_tls_with_a_certificate_of_both_sides(tmp_path: Path) -> None:
    pem, secret = _certificate(tmp_path)
    extra = (
        "--cert-file",
        str(pem),
        "--key-file",
        str(secret),
        "--trusted-ca-file",
        str(pem),
        "--client-cert-auth",
    )
    members = Members(tmp_path, 1, "https", extra)

    async def story() -> None:
        endpoint = members.endpoints[0]
        async with connected(endpoint, ca=str(pem), cert=str(pem), key=str(secret), deadline_s=15) as store:
            await store.transact([Compare("a", 0)], [Put("a", b"1")])
            assert (await store.list(""))[0].value == b"1"
        for options in ({"ca": str(pem)}, {"cert": str(pem), "key": str(secret)}):
            async with connected(endpoint, deadline_s=1, **options) as store:
                with pytest.raises(Unavailable):
                    await store.get("a")
        async with connected(endpoint, ca=str(secret)) as store:
            with pytest.raises(StoreError) as caught:
                await store.get("a")
            assert caught.value.code == "store-tls"

    try:
        members.start()
        asyncio.run(story())
    finally:
        members.stop()
