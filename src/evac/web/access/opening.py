"""Choose the access file and the certificate of a room, and decide whether it may listen on its address.

The command asks before it starts anything, and the process of the room asks again, so that starting that
process in another way does not skip the check.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from pathlib import Path
from urllib.parse import urlsplit

from evac.app.certificates import own_certificates
from evac.engine.clock import Clock
from evac.estate.codecs.access import access_beside, load_access
from evac.model.access import AccessRules, Tls
from evac.model.errors import InvalidInput, NotAllowed
from evac.model.records import dataclass
from evac.net.tls import TlsFiles, server_context
from evac.web.access.people import People
from evac.web.access.port import Access, Loopback
from evac.web.setting import NAMES_HERE, Listen, WebSetting, check_listen


@dataclass(frozen=True, slots=True)
class Opened:
    """rules: None if there is no access file. tls: None if connections are not encrypted."""

    rules: AccessRules | None
    path: Path | None
    tls: Tls | None
    listen: Listen


def choose(
    estate: Path,
    listen: Listen,
    access: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> Opened:
    """The named access file, or the one next to the estate. Raises EstateError with every problem in it,
    NotAllowed for an address that it may not listen on, and InvalidInput for a certificate that cannot be
    used.
    """
    path = access or access_beside(estate)
    rules = None if path is None else load_access(path)
    tls = _tls(rules, cert, key)
    check_listen(listen, tls=tls is not None, authenticated=rules is not None)
    if tls is not None:
        context_of(tls)
    if not listen.loopback and not _names(rules, listen):
        raise InvalidInput(
            "hosts-missing",
            f"{listen.host} is every address, and the war room's own name is unknown",
            "set it in the access file: address: https://HOST:PORT",
        )
    return Opened(rules, path, tls, listen)


def setting_of(opened: Opened) -> WebSetting:
    """The host names that the room answers to, and whether TLS terminates in it."""
    names = (*NAMES_HERE, *_names(opened.rules, opened.listen))
    shown = own_certificates() | ({} if opened.tls is None else {"war room": Path(opened.tls.cert)})
    return WebSetting(
        hosts=tuple(dict.fromkeys(names)), secure=opened.tls is not None, certificates=tuple(shown.items())
    )


def access_of(opened: Opened, name: str, clock: Clock) -> Access:
    """The access control. name: the name under which everyone acts if people are not told apart."""
    if opened.rules is None:
        return Loopback(name)
    return People(opened.rules, clock, secure=opened.tls is not None, path=opened.path)


def context_of(tls: Tls) -> ssl.SSLContext:
    """The TLS context. Raises InvalidInput for files that cannot be used, and NotAllowed for a key that
    others can read.
    """
    _check_key(tls.key)
    authority = Path(tls.client_ca) if tls.client_ca else None
    try:
        return server_context(TlsFiles(authority, Path(tls.cert), Path(tls.key)))
    except InvalidInput as error:
        cause = error.__cause__
        words = getattr(cause, "reason", None) or getattr(cause, "strerror", None) or str(cause)
        raise InvalidInput(
            "tls-unusable",
            f"the certificate cannot be used: {str(words)[:200]}",
            "give PEM files: the certificate with its chain, and its key without a password",
        ) from error


def _check_key(path: str) -> None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a path of a file of settings
    except OSError as error:
        raise InvalidInput(
            "tls-unusable", f"{path} cannot be read: {error.strerror}", "give a file"
        ) from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise NotAllowed("key-exposed", f"other users can read {path}", f"chmod o-rw {path}")


def _tls(rules: AccessRules | None, cert: Path | None, key: Path | None) -> Tls | None:
    """The certificate files: those on the command line override those in the access file."""
    if (cert is None) != (key is None):
        raise InvalidInput("tls-half", "a certificate needs its key, and a key its certificate", "give both")
    known = None if rules is None else rules.tls
    if cert is None or key is None:
        return known
    return Tls(str(cert), str(key), known.client_ca if known is not None else "")


def _names(rules: AccessRules | None, listen: Listen) -> tuple[str, ...]:
    found = list(rules.hosts) if rules is not None else []
    if rules is not None and rules.address:
        found.append((urlsplit(rules.address).hostname or "").lower())
    try:
        every = ipaddress.ip_address(listen.host).is_unspecified
    except ValueError:
        every = False
    return tuple(dict.fromkeys([*found, *([] if every else [listen.host.lower()])]))
