"""How this process speaks to agents: whom it believes, what it shows of itself, and whether in the clear.

An agent is reached at an `https://` address: its certificate has to be of the name or address in it, and of
an authority that is believed; ours is shown to it. An `http://` address is taken for this machine only,
unless `plain` says otherwise: orders are signed, and everybody on the way could read them.

Certificates are files, and are read again when they change, so that a new one needs no new start.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from evac.drivers.process import DRIVER
from evac.model.errors import InvalidInput, Permanent, Retryable
from evac.model.estate import Endpoint, Estate
from evac.net.tls import TlsFiles, client_context

CA, CERT, KEY, PLAIN = "EVAC_AGENT_CA", "EVAC_AGENT_CERT", "EVAC_AGENT_KEY", "EVAC_AGENT_PLAIN"
ALLOWED: Final = "allowed"
"""What `EVAC_AGENT_PLAIN` says, in so many words."""


@dataclass(frozen=True, slots=True)
class Peer:
    """files: of TLS, PEM. plain: agents of other machines may be asked in the clear."""

    files: TlsFiles = field(default_factory=TlsFiles)
    plain: bool = False


HERE: Final = Peer()
"""Believes the authorities of this machine, and shows nothing."""


def peer_of(environ: Mapping[str, str] = os.environ) -> Peer:
    """As the environment of this process says. Raises InvalidInput for words that mean nothing."""
    plain = environ.get(PLAIN, "")
    if plain not in ("", ALLOWED):
        raise InvalidInput(
            "agent-plain", f"{PLAIN} says {plain[:20]!r}", f"write {PLAIN}={ALLOWED}, or leave it out"
        )
    found = {name: Path(environ[name]) for name in (CA, CERT, KEY) if environ.get(name)}
    return Peer(TlsFiles(found.get(CA), found.get(CERT), found.get(KEY)), plain == ALLOWED)


def is_here(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain_problem(url: str, peer: Peer) -> str:
    """Why an agent may not be asked at that address; empty where it may."""
    parts = urlsplit(url)
    if parts.scheme != "http" or peer.plain or is_here(parts.hostname or ""):
        return ""
    return f"the agent at {parts.hostname} would be asked in the clear"


PLAIN_HINT: Final = f"write https:// and give the agent a certificate; or say {PLAIN}={ALLOWED}"


class Lines:
    """Contexts of TLS for agents, made anew when a file changed."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._made: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def to(self, url: str) -> ssl.SSLContext | None:
        """The context for an agent's address; None in the clear. Files that do not fit each other, as while a
        certificate and its key are renewed one after the other: the ones before are used until they do.

        Raises Permanent in the clear where that is refused; Retryable where no files ever fitted.
        """
        problem = plain_problem(url, self.peer)
        if problem:
            raise Permanent("agent-plain", problem, PLAIN_HINT)
        if not url.startswith("https:"):
            return None
        stamp = stamp_of(self.peer.files)
        if self._made is None or self._made[0] != stamp:
            try:
                self._made = (stamp, client_context(self.peer.files))
            except InvalidInput as error:
                if self._made is None:
                    raise Retryable(error.code, error.message, error.hint) from error
        return self._made[1]


def stamp_of(files: TlsFiles) -> tuple[object, ...]:
    """What the files are recognised by; one that cannot be seen is another one."""
    found: list[object] = []
    for path in (files.ca, files.cert, files.key):
        try:
            seen = path.stat() if path is not None else None
        except OSError:
            found.append(0)
        else:
            found.append(None if seen is None else (seen.st_mtime_ns, seen.st_size, seen.st_ino))
    return tuple(found)


def agent_endpoints(estate: Estate) -> dict[str, Endpoint]:
    """Site -> the first endpoint that names its agent."""
    found: dict[str, Endpoint] = {}
    for end in estate.endpoints:
        if end.driver == DRIVER.name and "agent" in end.settings:
            found.setdefault(end.at, end)
    return found


def agent_of(estate: Estate, site: str) -> Endpoint | None:
    """The endpoint that names the agent of a site; None if there is none."""
    return agent_endpoints(estate).get(site)
