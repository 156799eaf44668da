"""Why the other end of a TLS connection is believed: a CA, a pinned certificate, or a person says why not.

Owns the reading of these settings and the words for the evidence. Opens no connection.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evac.drivers import parameters
from evac.drivers.port import Value
from evac.model.errors import Permanent
from evac.net.tls import judge_alike

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_FILE_MOST: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Trust:
    """context: None for plain HTTP. pins: address (host, or host:port; "" for all) -> sha256 of the
    certificate. name: what the certificate must be for, where not the address. words: for the evidence.
    """

    words: str
    context: ssl.SSLContext | None = None
    pins: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""

    def pin_of(self, address: str) -> bytes | None:
        """The pin of a controller. Raises `Permanent` where others have one and this has none."""
        if not self.pins:
            return None
        host = address.rpartition(":")[0].strip("[]")
        pin = self.pins.get(address) or self.pins.get(host) or self.pins.get("")
        if pin is None:
            raise Permanent("bmc-tls", f"no pin is known for {address}", "add its line to the file of pins")
        return pin


def fits(pin: bytes, certificate: bytes | None) -> bool:
    """Whether a certificate (DER) is the pinned one."""
    return certificate is not None and hashlib.sha256(certificate).digest() == pin


def read_trust(settings: Mapping[str, Value], scheme: str) -> Trust:
    """Raises `Permanent`. Without any setting the certificate must come from a CA that the machine knows."""
    chosen = [key for key in ("ca", "pin", "insecure") if parameters.text(settings, key, "")]
    if len(chosen) > 1:
        raise Permanent("setting-wrong", f"{' and '.join(chosen)} contradict each other", "keep one of them")
    if scheme == "http":
        return Trust("none: plain http")
    name = parameters.text(settings, "tls_name", "")
    if chosen == ["insecure"]:
        return Trust(f"not verified: {parameters.text(settings, 'insecure')[:200]}", _unverified())
    if chosen == ["pin"]:
        return Trust("pinned", _unverified(), _pins(parameters.text(settings, "pin")))
    return Trust("verified by CA", _verified(parameters.text(settings, "ca", "")), name=name)


def _unverified() -> ssl.SSLContext:
    """Proves nothing by itself: a pin is compared before anything is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _verified(reference: str) -> ssl.SSLContext:
    if not reference:
        return judge_alike(ssl.create_default_context())
    path = _path(reference, "ca")
    try:
        return judge_alike(ssl.create_default_context(cafile=str(path)))
    except (OSError, ssl.SSLError) as error:
        raise Permanent("setting-wrong", f"ca: {path} holds no certificates that can be read") from error


def _pins(value: str) -> dict[str, bytes]:
    """One pin for all, or `address=hex` parts: in the setting, or one a line in a file."""
    text = _read(_path(value, "pin")) if value.startswith("file:") else value
    found: dict[str, bytes] = {}
    for part in re.split(r"[,\s]+", text.strip()):
        address, _, digest = part.rpartition("=")
        digest = digest.lower().replace(":", "")
        if not _HEX.fullmatch(digest):
            raise Permanent("setting-wrong", "pin must be the sha256 of a certificate: 64 hex digits")
        found[address] = bytes.fromhex(digest)
    return found


def _path(reference: str, key: str) -> Path:
    path = reference.removeprefix("file:")
    if not path.startswith("/"):
        raise Permanent("setting-wrong", f"{key} must be file:/path")
    return Path(path)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(_FILE_MOST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise Permanent("setting-wrong", f"{path} cannot be read") from error
    if len(text) > _FILE_MOST:
        raise Permanent("setting-wrong", f"{path} is too large for a list of pins")
    return text
