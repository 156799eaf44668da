"""What makers of management controllers do in their own way, in one table.

Every difference has a row or a column here; nothing else in the driver knows a maker's name. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
    """One maker's ways.

    marks: words of Manufacturer, or keys of Oem, in small letters. serials: properties in which the number on
    the box may stand. on, off, graceful: ways to switch, the best first, of which the allowed one is taken
    when the controller says which it allows. assumed: what is allowed where it does not say. progress: path
    in the resource to a state of the boot, where BootProgress is missing; up: its values that mean that
    the system starts. pending: boot source goes to the resource of pending settings, if there is one. etag: a
    PATCH needs If-Match. whole: a PATCH of the boot source names mode and target together.
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
    # The service tag on the box is the SKU; SerialNumber is the one of the board.
    Quirks("idrac", ("dell",), serials=("SKU", "SerialNumber")),
    # POST is done before BootProgress was known: Gen9 and Gen10 say it in their own words. They refuse the
    # boot source on the system itself where there is a resource of pending settings.
    Quirks(
        "ilo",
        ("hpe", "hp", "hewlett packard enterprise"),
        progress=("Oem", "Hpe", "PostState"),
        up=frozenset({"FinishedPost", "InPostDiscoveryComplete"}),
        pending=True,
    ),
    Quirks("xcc", ("lenovo",), whole=True),
    # No ForceOn; GracefulShutdown only while an agent runs in the system.
    Quirks("openbmc", ("openbmc",), on=("On", "PushPowerButton")),
    Quirks("ami", ("ami", "american megatrends", "american megatrends international"), etag=True),
    Quirks("supermicro", ("supermicro",), etag=True, whole=True),
)


def quirks_of(resource: Mapping[str, Any]) -> Quirks:
    """The row of the maker that a system names, by its Oem part first: a maker sells other makers' boards."""
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
    """The first way that is allowed; "" where there is none."""
    usable = allowed or quirks.assumed
    return next((one for one in wanted if one in usable), "")


def is_busy(body: bytes) -> bool:
    """Whether an error says that sessions are used up, or that the controller is starting."""
    return _BUSY.search(body[:_SEARCHED]) is not None


def message_id(body: bytes) -> str:
    """The first MessageId of an error; "" where there is none. Nothing else of the text is taken over."""
    found = _MESSAGE.search(body[:_SEARCHED])
    return found[1].decode("ascii") if found else ""
