"""TLS on both ends: contexts from PEM files, and error codes that distinguish failures.

tls-authority        the other side's certificate was not signed by a trusted authority
tls-expired          it has ended, or has not begun
tls-name             it is of another name
tls-client-missing   the other side wants a certificate of ours, and none was shown
tls-client-refused   it does not believe the one that was shown
tls-plain            the other side does not speak TLS
tls-failed           anything else
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from evac.model.errors import InvalidInput
from evac.model.records import dataclass

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CERT_MOST: Final = 1 << 20
_EXPIRED: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""
_NAME: Final = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_REFUSED: Final = (
    "unknown_ca",
    "unknown ca",
    "bad_certificate",
    "bad certificate",
    "certificate_expired",
    "certificate expired",
    "certificate_unknown",
    "certificate unknown",
    "unsupported_certificate",
    "access denied",
)
_MISSING: Final = ("certificate_required", "certificate required", "handshake_failure", "handshake failure")
_PLAIN: Final = ("wrong_version_number", "wrong version number", "http_request", "record layer failure")


_GIVE: Final = "give a certificate and its key"
_BELIEVED: Final = "present one that its CA has signed and that is currently valid"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `ca`: trusted authorities, None: those of this machine; `cert`, `key`: what we present."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def stamp_of(files: TlsFiles) -> tuple[object, ...]:
    """Identifies a version of the files; unreadable files never match."""
    found: list[object] = []
    for path in (files.ca, files.cert, files.key):
        try:
            seen = path.stat() if path is not None else None
        except OSError:
            found.append(0)
        else:
            found.append(None if seen is None else (seen.st_mtime_ns, seen.st_size, seen.st_ino))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class TlsTrouble:
    """code: stable; words: in a sentence that begins with the other side's address; hint: what to do."""

    code: str
    words: str
    hint: str


def is_here(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_plain(url: str) -> bool:
    """Whether others can read and change what is sent to this address: http:// to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_here(parts.hostname or "")


def check_encrypted(url: str) -> None:
    """Raises InvalidInput if a token for this address would be sent in plain text."""
    if is_plain(url):
        raise InvalidInput(
            "server-plain",
            f"{urlsplit(url).hostname} would receive the token in plain text",
            "use https://",
        )


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or later; verifies the server's name. Raises InvalidInput, without revealing file contents."""
    try:
        context = ssl.create_default_context(cafile=None if files.ca is None else str(files.ca))
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput("tls-ca", f"{files.ca} contains no certificates", "give a PEM file") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    judge_alike(context)
    _load(context, files)
    return context


class RenewedClient:
    """A client context, made again when a file changes. While files do not match, such as when a certificate
    and its key are being renewed, the previous context stays in use.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._made: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def now(self) -> ssl.SSLContext:
        """Raises InvalidInput if no files ever fitted."""
        stamp = stamp_of(self.files)
        if self._made is None or self._made[0] != stamp:
            try:
                self._made = (stamp, client_context(self.files))
            except InvalidInput:
                if self._made is None:
                    raise
        return self._made[1]


def unverified_context() -> ssl.SSLContext:
    """Proves nothing by itself: the caller must compare a pin before sending anything."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def judge_alike(context: ssl.SSLContext) -> ssl.SSLContext:
    """From 3.13 on, Python by default requires extensions that RFC 5280 wants in every certificate but that
    old authorities, and most server controllers, do not write. This turns that off, so that evac reaches the
    same systems under every Python version.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Like `client_context`, for a server; with `ca`, clients must present a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if files.cert is None:
        raise InvalidInput("tls-cert", "a TLS listener needs a certificate", "give cert and key")
    _load(context, files)
    if files.ca is not None:
        try:
            context.load_verify_locations(files.ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput("tls-ca", f"{files.ca} contains no certificates", "give a PEM file") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Renewed:
    """A server context: each new connection uses what `take` received last. inner: the context to listen
    with.

    A connection switches over in its handshake, so no client is cut off and the port stays open.
    """

    def __init__(self, first: ssl.SSLContext) -> None:
        self.context = self.inner = first
        self.context.sni_callback = self._choose

    def take(self, context: ssl.SSLContext) -> None:
        self.inner = context

    def _choose(self, line: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        line.context = self.inner


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    if files.cert is None:
        if files.key is not None:
            raise InvalidInput("tls-cert", "a key without its certificate", "give the certificate too")
        return
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            "tls-cert", f"{files.cert} and its key cannot be used", "give PEM files without a password"
        ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")


def trouble_of(error: BaseException) -> TlsTrouble | None:
    """The TLS problem behind an error or its causes; None if it was something else."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return None
        for one in (getattr(seen, "certificate_error", None), seen):
            if isinstance(one, ssl.SSLCertVerificationError) and hasattr(one, "verify_code"):
                return _unbelieved(one)
            if isinstance(one, ssl.SSLError):
                return _failed(one)
        seen = seen.__cause__ or seen.__context__
    return None


def _unbelieved(error: ssl.SSLCertVerificationError) -> TlsTrouble:
    words = str(error.verify_message)[:200].rstrip(".")
    if error.verify_code in _EXPIRED:
        return TlsTrouble(
            "tls-expired", f"its certificate is expired or not yet valid: {words}", "renew its certificate"
        )
    if error.verify_code in _NAME:
        return TlsTrouble(
            "tls-name",
            f"its certificate is for a different name: {words}",
            "use the name in the certificate, or create one for this name",
        )
    return TlsTrouble(
        "tls-authority",
        f"its certificate was not signed by a trusted CA: {words}",
        "set the CA that signed it (ca)",
    )


def _failed(error: ssl.SSLError) -> TlsTrouble:
    said = f"{error.reason or ''} {error}".lower()
    if any(one in said for one in _MISSING):
        return TlsTrouble("tls-client-missing", "it requires a client certificate", _GIVE)
    if any(one in said for one in _REFUSED):
        words = "it does not trust our certificate"
        return TlsTrouble("tls-client-refused", words, _BELIEVED)
    if any(one in said for one in _PLAIN):
        return TlsTrouble("tls-plain", "it does not speak TLS", "use http://, or enable TLS there")
    return TlsTrouble("tls-failed", f"TLS failed: {error.reason or 'no reason given'}", "check its log")


def ends_ms(path: Path | None) -> int:
    """When the first certificate in a file expires, in milliseconds since 1970; 0 if there is none. Raises
    InvalidInput.
    """
    found = None if path is None else _certificate(path)
    return 0 if found is None else int(found.not_valid_after_utc.timestamp() * 1_000)


def names_of(path: Path | None) -> tuple[str, ...]:
    """DNS names and addresses of the first certificate in a file. Raises InvalidInput."""
    from cryptography import x509

    found = None if path is None else _certificate(path)
    try:
        names = found and found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    if not names:
        return ()
    addresses = (str(one) for one in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _certificate(path: Path) -> Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes()[:CERT_MOST])
    except (OSError, ValueError) as error:
        raise InvalidInput("tls-cert", f"{path} contains no certificate", "give a PEM file") from error


_ASK: Final = b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_HUNG_UP: Final = "it closed the connection right after the handshake, which usually means that it "


async def why_cut(
    host: str, port: int, context: ssl.SSLContext, shown: bool, timeout_s: float = 3.0
) -> TlsTrouble | None:
    """Why a TLS peer hung up at once. shown: a certificate of ours. None if the peer does not speak TLS.

    Since TLS 1.3 a certificate is refused after the handshake has ended for us. HTTP clients lose the reason,
    and asyncio servers send none: then only the silence is visible.
    """
    return await asyncio.to_thread(_look, host, port, context, shown, timeout_s)


def _look(host: str, port: int, context: ssl.SSLContext, shown: bool, timeout_s: float) -> TlsTrouble | None:
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as line,
        ):
            line.settimeout(timeout_s)
            try:
                line.sendall(_ASK)
                if line.recv(1):
                    return None
            except OSError as error:
                found = trouble_of(error)
                if isinstance(error, TimeoutError) or (found is not None and found.code != "tls-failed"):
                    return found
    except OSError as error:
        return trouble_of(error)
    if shown:
        words = _HUNG_UP + "does not trust our certificate"
        return TlsTrouble("tls-client-refused", words, _BELIEVED)
    return TlsTrouble("tls-client-missing", _HUNG_UP + "requires a client certificate", _GIVE)
