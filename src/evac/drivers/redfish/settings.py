"""Read the settings of the Redfish driver: how to reach a management controller, and what to do with it.

Opens no connection. Addresses and names come from files that people write, so each is validated here. So are
the reasons to trust a TLS server: a CA, a pinned certificate, or a person's explicit statement, which is
recorded in the evidence.

Differences between makers of management controllers are in one table: each has a row or a column there, and
nothing else in the driver names a maker.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final, TypeGuard

from evac.drivers import parameters
from evac.drivers.port import Action, Value
from evac.model.errors import InvalidInput, Permanent
from evac.model.records import dataclass
from evac.net.tls import TlsFiles, client_context, unverified_context

ON_TYPES: Final = ("On", "ForceOn", "PushPowerButton")
OFF_TYPES: Final = ("ForceOff",)
GRACEFUL_TYPES: Final = ("GracefulShutdown", "PushPowerButton")
BUTTON: Final = "PushPowerButton"
_BUSY: Final = re.compile(
    rb"RAC0218|RAC0904|SYS425|SYS428|SessionLimitExceeded|ServiceTemporarilyUnavailable|ServiceShuttingDown"
    rb"|ServiceInUnknownState|SystemResetInProgress|TooManySessions|iLO\.[0-9.]+\.(?:ResetInProgress|LoginInProgress"
    rb"|SessionLimit|RequestLimitExceeded)|XCCResetting"
)
_SEARCHED: Final = 8_192
_MESSAGE: Final = re.compile(rb'"MessageId"\s*:\s*"([A-Za-z0-9_.\-]{1,80})"')


@dataclass(frozen=True, slots=True)
class Quirks:
    """Specifics of one maker.

    marks: words of Manufacturer, or keys of Oem, in lower case. serials: properties that may contain the
    number on the box. on, off, graceful: requests, preferred ones first, of which the first allowed one is
    used if the controller lists what it allows. assumed: what is allowed if it does not. progress: path in
    the resource to a state of the boot, if BootProgress is missing; up: its values that mean the system is
    starting. pending: the boot source goes to the resource of pending settings, if there is one. etag: a
    PATCH needs If-Match. whole: a PATCH of the boot source contains both mode and target.
    """

    name: str
    marks: tuple[str, ...] = ()
    serials: tuple[str, ...] = ("SerialNumber",)
    on: tuple[str, ...] = ON_TYPES
    off: tuple[str, ...] = OFF_TYPES
    graceful: tuple[str, ...] = GRACEFUL_TYPES
    assumed: frozenset[str] = frozenset({"On", "ForceOff", "GracefulShutdown"})
    progress: tuple[str, ...] = ()
    up: frozenset[str] = frozenset()
    pending: bool = False
    etag: bool = False
    whole: bool = False


PLAIN: Final = Quirks("plain")
VENDORS: Final = (
    # The service tag on the box is the SKU; SerialNumber is the board's.
    Quirks("idrac", ("dell",), serials=("SKU", "SerialNumber")),
    # Gen9 and Gen10 predate BootProgress and report POST in their own terms. They refuse the
    # boot source on the system itself if there is a resource of pending settings.
    Quirks(
        "ilo",
        ("hpe", "hp", "hewlett packard enterprise"),
        progress=("Oem", "Hpe", "PostState"),
        up=frozenset({"FinishedPost", "InPostDiscoveryComplete"}),
        pending=True,
    ),
    Quirks("xcc", ("lenovo",), whole=True),
    # No ForceOn; GracefulShutdown only while an agent runs in the operating system.
    Quirks("openbmc", ("openbmc",), on=("On", "PushPowerButton")),
    Quirks("ami", ("ami", "american megatrends", "american megatrends international"), etag=True),
    Quirks("supermicro", ("supermicro",), etag=True, whole=True),
)


def quirks_of(resource: Mapping[str, Any]) -> Quirks:
    """The maker that a system names, first by its Oem part: makers also sell other makers' boards."""
    oem = resource.get("Oem")
    words = [key.lower() for key in list(oem)[:16] if isinstance(key, str)] if isinstance(oem, dict) else []
    maker = resource.get("Manufacturer")
    if isinstance(maker, str):
        words.append(maker[:64].lower().removesuffix(".").removesuffix(" inc").strip(" ,"))
    for word in words:
        for row in VENDORS:
            if word in row.marks:
                return row
    return PLAIN


def choose(wanted: tuple[str, ...], allowed: frozenset[str], quirks: Quirks) -> str:
    """The first request that is allowed; "" if there is none."""
    usable = allowed or quirks.assumed
    return next((one for one in wanted if one in usable), "")


def is_busy(body: bytes) -> bool:
    """Whether an error means that no session is free, or that the controller is starting."""
    return _BUSY.search(body[:_SEARCHED]) is not None


def message_id(body: bytes) -> str:
    """The first MessageId of an error; "" if there is none. No other text is used."""
    found = _MESSAGE.search(body[:_SEARCHED])
    return found[1].decode("ascii") if found else ""


REQUESTS_AT_ONCE: Final = 64
REFUSALS_AT_MOST: Final = 5
ANSWER_S: Final = 10
SOURCES: Final = ("", "disk", "pxe")
_ADDRESS: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.\-]{0,252}))(?::([0-9]{1,5}))?"
)
_PATH: Final = re.compile(r"/redfish/v1/[A-Za-z0-9_.\-/]{1,200}")
_KEPT_MOST: Final = 1_024
CIRCUIT_WEIGHT: Final = 2**62


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach all controllers of one endpoint. password: a reference; answer_s: time limit of one
    request.
    """

    scheme: str
    port: int
    user: str
    password: str
    session: bool
    trust: Trust
    boot_source: str
    requests_at_once: int
    refusals_at_most: int
    answer_s: float


@dataclass(frozen=True, slots=True)
class RedfishTarget:
    """One controller and what is known of its server. address: `host:port`; serial "", boot_ms 0: unknown."""

    access: Access
    address: str
    network: str
    server: str
    serial: str = ""
    boot_ms: int = 0
    circuit: str = ""

    @property
    def base(self) -> str:
        return f"{self.access.scheme}://{self.address}"

    @property
    def weight(self) -> int:
        """Priority in a busy management network: circuits first, because servers wait for them, then the
        longest boots, which the whole wave waits for.
        """
        return CIRCUIT_WEIGHT if self.circuit else self.boot_ms


class Reader:
    """Reads actions; the settings of an endpoint, shared by all its servers, are read once."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Mapping[str, Value], Access]] = {}

    def target(self, action: Action) -> RedfishTarget:
        """The controller that an action is for. Raises `Permanent`."""
        access = self._access(action.settings)
        told = action.parameters
        address = parameters.text(told, "address", "") or parameters.text(action.settings, "address")
        return RedfishTarget(
            access,
            address_of(address, access.port),
            parameters.text(told, "network", "") or action.at,
            parameters.text(told, "server", action.target),
            parameters.text(told, "serial", "").strip(),
            parameters.whole(told, "boot_ms", 0, 86_400_000),
            _circuit(action),
        )

    def _access(self, settings: Mapping[str, Value]) -> Access:
        kept = self._kept.get(id(settings))
        if kept is not None and kept[0] is settings:
            return kept[1]
        access = read_access(settings)
        if len(self._kept) >= _KEPT_MOST:
            self._kept.clear()
        self._kept[id(settings)] = (settings, access)
        return access


def read_access(settings: Mapping[str, Value]) -> Access:
    """Read the settings. Raises `Permanent` if one is missing or wrong."""
    scheme = one_of(settings, "scheme", ("https", "http"))
    port = parameters.whole(settings, "port", 443 if scheme == "https" else 80, 65_535)
    return Access(
        scheme,
        port,
        parameters.text(settings, "user"),
        parameters.text(settings, "password"),
        one_of(settings, "login", ("basic", "session")) == "session",
        read_trust(settings, scheme),
        one_of(settings, "boot_source", SOURCES),
        max(1, parameters.whole(settings, "requests_at_once", REQUESTS_AT_ONCE, 4_096)),
        max(1, parameters.whole(settings, "refusals_at_most", REFUSALS_AT_MOST, 100)),
        float(max(1, parameters.whole(settings, "answer_s", ANSWER_S, 120))),
    )


def one_of(settings: Mapping[str, Value], key: str, allowed: tuple[str, ...]) -> str:
    """One of several words; the first is the default."""
    value = parameters.text(settings, key, allowed[0])
    if value not in allowed:
        words = ", ".join(word for word in allowed if word)
        raise Permanent("setting-wrong", f"{key} must be one of: {words}")
    return value


def address_of(address: str, port: int) -> str:
    """`host:port` of an address with or without its own port."""
    found = _ADDRESS.fullmatch(address)
    if not found or (found[1] and not 0 < int(found[1]) < 65_536):
        raise Permanent("setting-wrong", "the address of a controller must be a host or host:port")
    return address if found[1] else f"{address}:{port}"


def _circuit(action: Action) -> str:
    path = parameters.text(action.parameters, "circuit", "") or parameters.text(
        action.settings, "circuit", ""
    )
    if path and not is_own_path(path):
        raise Permanent("setting-wrong", "circuit must be a path below /redfish/v1/")
    return path


def is_own_path(path: object) -> TypeGuard[str]:
    """Whether a link in a response may be followed: a plain path below /redfish/v1/ on the same host."""
    return (
        isinstance(path, str) and _PATH.fullmatch(path) is not None and ".." not in path and "//" not in path
    )


_HEX: Final = re.compile(r"[0-9a-f]{64}")
_FILE_MOST: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Trust:
    """context: None for plain HTTP. pins: address (host, or host:port; "" for all) -> sha256 of the
    certificate. name: the name required in the certificate, if not the address. words: for the evidence.
    """

    words: str
    context: ssl.SSLContext | None = None
    pins: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""

    def pin_of(self, address: str) -> bytes | None:
        """The pin of a controller. Raises `Permanent` if others have one and this one does not."""
        if not self.pins:
            return None
        host = address.rpartition(":")[0].strip("[]")
        pin = self.pins.get(address) or self.pins.get(host) or self.pins.get("")
        if pin is None:
            raise Permanent("bmc-tls", f"no pin is known for {address}", "add a line for it to the pins file")
        return pin


def fits(pin: bytes, certificate: bytes | None) -> bool:
    """Whether a certificate (DER) is the pinned one."""
    return certificate is not None and hashlib.sha256(certificate).digest() == pin


def read_trust(settings: Mapping[str, Value], scheme: str) -> Trust:
    """Read the settings. Raises `Permanent`. By default the certificate must come from a CA that the machine
    trusts.
    """
    chosen = [key for key in ("ca", "pin", "insecure") if parameters.text(settings, key, "")]
    if len(chosen) > 1:
        raise Permanent("setting-wrong", f"{' and '.join(chosen)} contradict each other", "keep one of them")
    if scheme == "http":
        return Trust("none: plain http")
    name = parameters.text(settings, "tls_name", "")
    if chosen == ["insecure"]:
        return Trust(f"not verified: {parameters.text(settings, 'insecure')[:200]}", unverified_context())
    if chosen == ["pin"]:
        return Trust("pinned", unverified_context(), _pins(parameters.text(settings, "pin")))
    return Trust("verified by CA", _verified(parameters.text(settings, "ca", "")), name=name)


def _verified(reference: str) -> ssl.SSLContext:
    path = _path(reference, "ca") if reference else None
    try:
        return client_context(TlsFiles(path))
    except InvalidInput as error:
        raise Permanent("setting-wrong", f"ca: {path} contains no readable certificates") from error


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
        raise Permanent("setting-wrong", f"{path} is too large for a pins file")
    return text
