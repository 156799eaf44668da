"""What `evac store check` and `evac lab doctor` find open, asked of real members of etcd."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from evac.cli import console
from evac.cli.main import run
from evac.model.errors import StoreError, Unavailable
from evac.net.etcd_gateway import Gateway, text_key
from evac.net.tls import TlsFiles
from evac.store.locks import open_locks
from evac.store.opening import open_store
from evac.store.port import Put
from evac_lab import authorities
from evac_lab.servers import etcd
from evac_lab.state import Site, Topology
from tests.contract.ports import free_port
from tests.unit.store.locked_etcd import ground

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]


def found(url: str) -> list[str]:
    return [one.code for one in asyncio.run(open_locks(url))]


def test_a_store_that_is_locked_leaves_nothing_open(capsys: pytest.CaptureFixture[str]) -> None:
    with ground() as made:
        made.lock()
        assert found(made.url(**made.users())) == []
        assert run(["store", "check", "--store", made.url(**made.users())]) == console.DONE
    assert "this store is secured" in capsys.readouterr().err


def test_each_lock_that_is_open_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """etcd as it comes: in the clear, without users; and evac's entries without a seal."""
    with ground(plain=True) as made:
        url = made.url(seal="")
        assert found(url) == ["unsealed", "plain", "no-user", "peers-plain", "members-plain"]
        assert run(["store", "check", "--store", url]) == console.FINDINGS
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 10
    assert all(line.strip().startswith("next: ") for line in said[1::2])


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    """Keys that everybody reads, a certificate that has ended, and an authority that signed nothing here."""
    for name in ("seal", "tls", "password"):
        (tmp_path / name).write_text("s" * 40)
        (tmp_path / name).chmod(0o644)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "evac")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    first, last = (datetime(2020, month, 1, tzinfo=UTC) for month in (1, 2))
    made = made.serial_number(1).not_valid_before(first).not_valid_after(last)
    ended = tmp_path / "ended.pem"
    ended.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files = {"seal": f"file:{tmp_path / 'seal'}", "key": str(tmp_path / "tls"), "cert": str(ended)}
    with ground() as here:
        url = here.url(**files, user="evac", password=f"file:{tmp_path / 'password'}")
        assert found(url) == ["key-open", "key-open", "key-open", "expired", "not-checked"]
        (told,) = asyncio.run(open_locks(here.url(ca=str(ended), cert="", key="")))
    assert "its certificate was not signed by a trusted CA" in told.words
    assert told.cure == "set the CA that signed it (ca)"


def test_a_role_for_more_than_the_keys_of_evac_is_named() -> None:
    with ground() as made:
        made.lock()

        async def wider(gateway: Gateway) -> None:
            keys = {"permType": "READ", "key": text_key("other/"), "range_end": text_key("other0")}
            await gateway.call("/v3/auth/role/grant", {"name": "evac", "perm": keys})
            await gateway.call("/v3/auth/role/grant", {"name": "evac", "perm": {"key": text_key("evac/x")}})

        made.do(wider, "root")
        url = made.url(**made.users())
        (one,) = asyncio.run(open_locks(url))
        assert (one.code, one.words) == (
            "role-too-wide",
            "the user evac of etcd can access more than evac/: other/*",
        )
        assert found(made.url(**made.users("root"))) == ["role-too-wide"]
        assert found(made.url()) == ["not-checked"]


def test_a_user_without_certificates_is_not_enough() -> None:
    """A member with TLS, that asks nobody for a certificate."""
    with ground() as made:
        made.member.kill()
        argv = tuple(one for one in made.member.process.argv if one != "--client-cert-auth")
        made.member.process.argv = tuple(
            one for at, one in enumerate(argv) if "--trusted-ca-file" not in (one, argv[at - 1])
        )
        made.member.start()
        etcd.wait_for_all([made.member])
        assert found(made.url()) == ["no-certificate", "no-user"]


def test_a_certificate_that_etcd_cannot_take_with_users_is_explained() -> None:
    with ground() as made:
        made.lock()
        folder = made.certificates
        cert, key = folder / "controller-a.pem", folder / "controller-a.key"
        (one,) = asyncio.run(open_locks(made.url(**made.users(), cert=str(cert), key=str(key))))
        assert one.code == "not-checked"
        assert "its subject has a common name" in one.words
        assert "openssl req -subj /O=evac" in one.cure


def test_a_store_that_is_silent_is_not_called_locked() -> None:
    url = f"etcd:http://127.0.0.1:{free_port()}?seal=env:NOTHING"
    assert found(url) == ["plain", "not-checked"]


def test_a_file_has_no_locks_of_etcd(tmp_path: Path) -> None:
    assert found(f"sqlite:{tmp_path / 'evac.sqlite'}") == []
    with pytest.raises(StoreError):
        found("etcd:nowhere")


SHIPPED = Path(__file__).parents[3] / "packaging/systemd/etcd.env"


def test_the_shipped_settings_of_etcd_leave_only_the_users_to_add() -> None:
    """With names and addresses changed, as the page says, and started as Debian's unit does."""
    with ground() as made:
        made.member.kill()
        shutil.rmtree(made.member.folder / "data")
        port, peer = made.member.client_port, made.member.peer_port
        own = made.certificates / "etcd-a"
        text = re.sub(r"(?m)^#.*\n", "", SHIPPED.read_text())
        for old, new in {
            "pangyo=https://10.1.0.2:2380,anyang=https://10.2.0.2:2380,ansan=https://10.3.0.2:2380": (
                f"pangyo=https://127.0.0.1:{peer}"
            ),
            "10.1.0.2:2379": f"127.0.0.1:{port}",
            "10.1.0.2:2380": f"127.0.0.1:{peer}",
            "/etc/etcd/tls/server.pem": f"{own}.pem",
            "/etc/etcd/tls/server-key.pem": f"{own}.key",
            "/etc/etcd/tls/ca.pem": str(made.certificates / "ca.pem"),
            "/var/lib/etcd/evac": str(made.member.folder / "data"),
        }.items():
            assert old in text
            text = text.replace(old, new)
        process = made.member.process
        process.argv = process.argv[:1]
        process.env = dict(line.split("=", 1) for line in text.splitlines() if line)
        made.member.start()
        etcd.wait_for_all([made.member])
        assert found(made.url()) == ["no-user"]
        made.lock()
        assert found(made.url(**made.users())) == []


def test_certificates_that_are_renewed_are_shown_without_a_restart(tmp_path: Path) -> None:
    """A foreign pair is shown too, which proves it; halves of two pairs are not, and the pair before is."""
    authorities.make(tmp_path, Topology("loopback", 0, (Site("a", 1, "127.0.0"),), "127.0.0.1"))
    foreign = authorities.store_files(tmp_path)
    cert, key = tmp_path / "shown.pem", tmp_path / "shown.key"

    def show(certificate: TlsFiles, secret: TlsFiles) -> None:
        for path, source in ((cert, certificate.cert), (key, secret.key)):
            assert source is not None
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_bytes(source.read_bytes())
            new.replace(path)

    async def story(url: str, good: TlsFiles) -> None:
        show(good, good)
        gateway = Gateway([url], tls=(str(good.ca), str(cert), str(key)), deadline_s=10.0)
        status = ("/v3/maintenance/status", {})
        try:
            assert await gateway.call(*status)
            show(foreign, foreign)
            with pytest.raises(Unavailable):
                await gateway.call_once(*status, time.monotonic() + 1)
            show(foreign, good)
            with pytest.raises(Unavailable):
                await gateway.call_once(*status, time.monotonic() + 1)
            show(good, good)
            assert await gateway.call(*status)
            show(good, foreign)
            assert await gateway.call(*status)
        finally:
            await gateway.close()

    with ground() as made:
        asyncio.run(story(made.member.url, authorities.store_files(made.certificates)))


def test_the_page_secures_a_store_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command of `docs/how-to/lock-the-store.md`, with addresses and folders of this test."""
    client, peer, page = free_port(), free_port(), Path(__file__).parents[3] / "docs/how-to/lock-the-store.md"
    text = page.read_text(encoding="utf-8").partition("## 5.")[0]
    for there, here in (
        ("/etc/evac", f"{tmp_path}"),
        ("/var/lib/etcd", f"{tmp_path / 'data'}"),
        ("10.1.0.2:2379", f"127.0.0.1:{client}"),
        ("10.1.0.2:2380", f"127.0.0.1:{peer}"),
        ("10.1.0.2", "127.0.0.1"),
        ("etcdctl user add root", f"etcdctl user add root --interactive=false <<< {'r' * 20}"),
    ):
        assert there in text
        text = text.replace(there, here)
    blocks = [re.sub(r"(?m)^    ", "", one) for one in re.findall(r"(?m)(?:^    .*\n)+", text)]
    seal, again, certificates, member, users = blocks[:5]
    assert [one.split()[0] for one in (seal, certificates, member, users)] == [
        "(umask",
        "openssl",
        "etcd",
        "export",
    ]

    def typed(block: str) -> None:
        command = ["bash", "-ec", block]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"

    typed(seal)
    asyncio.run(_write(f"sqlite:{tmp_path / 'evac.sqlite'}"))
    typed(f"evac() {{ '{sys.executable}' -m evac \"$@\"; }}\n{again}")
    typed(certificates)
    first = users.index("etcdctl user add")
    with subprocess.Popen(
        ["bash", "-ec", f"exec {member}"], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as server:
        try:
            typed(f"{users[:first]}until etcdctl endpoint health; do :; done\n{users[first:]}")
            files = {"ca": "ca.pem", "cert": "evac.pem", "key": "evac-key.pem"}
            options = [f"{name}={tmp_path / file}" for name, file in files.items()]
            options += [f"user=evac&password=file:{tmp_path / 'etcd-password'}"]
            options += [f"seal=file:{tmp_path / 'store-seal'}"]
            url = f"etcd:https://127.0.0.1:{client}?{'&'.join(options)}"
            assert run(["store", "check", "--store", url]) == console.DONE
        finally:
            server.kill()
    assert "this store is secured" in capsys.readouterr().err


async def _write(url: str) -> None:
    store = open_store(url)
    await store.transact((), (Put("plan/1", b"before there was a seal"),))
    await store.close()
