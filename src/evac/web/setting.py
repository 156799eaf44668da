"""How the war room is served: where it listens, what it bounds. Plain values; no framework."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from evac.model.errors import InvalidInput, NotAllowed
from evac.model.records import dataclass

LOOPBACK_NAMES: Final = ("localhost",)
NAMES_HERE: Final = ("127.0.0.1", "localhost", "::1")
"""Names that every war room answers to."""


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        if self.host in LOOPBACK_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def url(self, secure: bool = False) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if secure else ''}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WebSetting:
    """`hosts`: names that the war room answers to, without ports; empty: any. `body_most`: maximum bytes of a
    request body; `plan_most`: of an uploaded plan. `heartbeat_s`: interval of heartbeats on streams.
    `secure`: TLS ends here, so cookies and HSTS may say so. `certificates`: (purpose, file) of those that
    this process presents. `credits`: folder of credit cases.
    """

    hosts: tuple[str, ...] = NAMES_HERE
    body_most: int = 1 << 20
    plan_most: int = 64 << 20
    header_most: int = 32_768
    heartbeat_s: float = 15.0
    secure: bool = False
    certificates: tuple[tuple[str, Path], ...] = ()
    credits: Path | None = None


def listen_of(text: str) -> Listen:
    """`127.0.0.1:8400`, `[::1]:8400`. Raises InvalidInput."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65_535:
        hint = "use a value like 127.0.0.1:8400 or [::1]:8400"
        raise InvalidInput("listen-address", f"'{text[:80]}' is not an address", hint)
    return Listen(host, int(port))


def check_listen(listen: Listen, *, tls: bool, authenticated: bool) -> None:
    """Raises NotAllowed for an address that others can reach, unless people sign in and TLS protects it."""
    if listen.loopback or (tls and authenticated):
        return
    missing = " and ".join(
        words for words, there in (("TLS", tls), ("authentication", authenticated)) if not there
    )
    raise NotAllowed(
        "listen-public",
        f"{listen.host} can be reached from other machines, but there is no {missing}",
        "give it --tls-cert, --tls-key and an access.yaml; or listen on 127.0.0.1, and reach it through SSH: "
        "ssh -L 8400:127.0.0.1:8400 HOST",
    )
