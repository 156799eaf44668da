"""A member of etcd with TLS, as the lab locks it, and what its clients show and know."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evac.net.etcd_gateway import Gateway
from evac_lab import authorities
from evac_lab.servers import etcd
from evac_lab.state import Site, Topology
from tests.contract.ports import free_port


@dataclass(frozen=True)
class Ground:
    """A member of etcd, and what its clients show and know."""

    member: etcd.EtcdServer
    certificates: Path
    secrets: Path

    @property
    def shown(self) -> tuple[str, str, str]:
        files = authorities.store_files(self.certificates)
        return str(files.ca), str(files.cert), str(files.key)

    def url(self, **options: str) -> str:
        ca, cert, key = self.shown
        tls = {"ca": ca, "cert": cert, "key": key} if self.member.tls else {}
        seal = {"seal": f"file:{self.secrets / 'seal'}"}
        named = {**tls, **seal, **options}
        return f"etcd:{self.member.url}?" + "&".join(f"{name}={one}" for name, one in named.items() if one)

    def users(self, user: str = "evac") -> dict[str, str]:
        return {"user": user, "password": f"file:{self.secrets / user}"}

    def do(self, what: Callable[[Gateway], Awaitable[object]], user: str = "") -> None:
        async def done() -> None:
            login = self.users(user) if user else {}
            gateway = Gateway([self.member.url], tls=self.shown, **login)
            try:
                await what(gateway)
            finally:
                await gateway.close()

        asyncio.run(done())

    def lock(self, prefix: str = "evac/") -> None:
        async def users(gateway: Gateway) -> None:
            root, evac = (self.password(name) for name in ("root", "evac"))
            await etcd.add_users(gateway, root, {"evac": (evac, prefix)})

        self.do(users)

    def password(self, name: str) -> str:
        return (self.secrets / name).read_text()


@contextmanager
def ground(*, plain: bool = False) -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="evac-locks-"))
    topology = Topology("loopback", 0, (Site("a", 1, "127.0.0"),), "127.0.0.1")
    authorities.make(folder / "certificates", topology)
    (folder / "secrets").mkdir()
    for name in ("root", "evac", "viewer", "patroni", "seal"):
        path = folder / "secrets" / name
        path.touch(mode=0o600)
        path.write_text((name * 12)[:60])
    tls = None if plain else authorities.member_files(folder / "certificates", "a")
    client, peer = free_port(), free_port()
    member = etcd.etcd(folder / "etcd", "127.0.0.1", client, peer, "a", tls=tls, frugal=True)
    try:
        member.start()
        etcd.wait_for_all([member])
        yield Ground(member, folder / "certificates", folder / "secrets")
    finally:
        member.kill()
        shutil.rmtree(folder, ignore_errors=True)
