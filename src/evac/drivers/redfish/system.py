"""A management controller's report on its server, read as hostile input; and the only changes made there:
power and boot source, each sent once.

Texts are shortened and stripped of unprintable characters; links count only below /redfish/v1/ of the same
host; values that are missing or of another type are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from evac.drivers.redfish.calls import Talk, content, refusal
from evac.drivers.redfish.settings import Quirks, is_own_path, quirks_of
from evac.model.errors import Permanent, Retryable
from evac.model.records import dataclass
from evac.net.http_calls import Answer

SYSTEMS: Final = "/redfish/v1/Systems"
RESET: Final = "#ComputerSystem.Reset"
MEMBERS_MOST: Final = 64
TEXT_MOST: Final = 128
UP: Final = "OSRunning"
Power = Literal["on", "off", "rising", "falling", ""]
_POWERS: Final[Mapping[str, Power]] = {
    "On": "on",
    "Off": "off",
    "PoweringOn": "rising",
    "PoweringOff": "falling",
    "Paused": "on",
}
_WORST: Final = ("critical", "warning", "ok")


@dataclass(frozen=True, slots=True)
class System:
    """One observation. power "": not reported. progress "": no BootProgress. health "": not reported; else
    the worst reported. last_reset: the controller's own text for the time, only for comparison.
    """

    path: str
    power: Power
    progress: str
    last_reset: str
    serials: tuple[str, ...]
    host_name: str
    health: str
    reset_path: str
    reset_types: frozenset[str]
    boot_targets: frozenset[str]
    boot_mode: str
    pending_path: str
    storage_path: str
    quirks: Quirks

    @property
    def serial(self) -> str:
        return self.serials[0] if self.serials else ""

    def is_server(self, serial: str) -> bool:
        """Whether it is the machine with this number. An unknown number matches every machine."""
        return not serial or serial.casefold() in (one.casefold() for one in self.serials)


async def find(talk: Talk, known_path: str, last: bool = False) -> tuple[System, bool]:
    """The system of a controller, and whether the known path led to it. known_path: where another controller
    of this endpoint has its system, "" for none; used only for a server with a known serial number, which
    shows whether it is the right one.
    """
    serial = talk.target.serial
    if known_path and serial:
        answer = await talk.ask("GET", known_path, last=last)
        if answer.status == 200:
            found = read(known_path, content(talk.target.address, answer))
            if found.is_server(serial):
                return found, True
    paths = await _members(talk)
    systems = [read(path, await talk.get(path)) for path in paths]
    fitting = [one for one in systems if one.is_server(serial)]
    if len(fitting) > 1:
        words = (
            f"{talk.target.address} has {len(fitting)} systems, and the "
            "serial number of this server is not known"
        )
        raise Permanent("bmc-unsupported", words, "add the serial number to the estate")
    return (fitting or systems)[0], False


async def look(talk: Talk, path: str, last: bool = False) -> System:
    """The system at a path known to be its own."""
    return read(path, await talk.get(path, last=last))


async def _members(talk: Talk) -> tuple[str, ...]:
    found = await talk.get(SYSTEMS)
    own = tuple(dict.fromkeys(link.rstrip("/") for link in links(found.get("Members"), MEMBERS_MOST)))
    if not own:
        raise Retryable("bmc-half-dead", f"{talk.target.address} lists no system")
    return own


def read(path: str, found: Mapping[str, Any]) -> System:
    """Parse a system. Never raises."""
    quirks = quirks_of(found)
    action = _part(_part(found, "Actions"), RESET)
    boot = _part(found, "Boot")
    types = action.get("ResetType@Redfish.AllowableValues")
    targets = boot.get("BootSourceOverrideTarget@Redfish.AllowableValues")
    pending = _part(_part(found, "@Redfish.Settings"), "SettingsObject").get("@odata.id")
    storage = _part(found, "Storage").get("@odata.id")
    reset = action.get("target")
    status = _part(found, "Status")
    told = {text(status, "Health").lower(), text(status, "HealthRollup").lower()}
    return System(
        path,
        _POWERS.get(text(found, "PowerState"), ""),
        _progress(found, quirks),
        text(found, "LastResetTime"),
        tuple(filter(None, (text(found, key) for key in quirks.serials))),
        text(found, "HostName"),
        next((word for word in _WORST if word in told), ""),
        str(reset) if is_own_path(reset) else "",
        words_of(types),
        words_of(targets),
        text(boot, "BootSourceOverrideMode"),
        str(pending) if is_own_path(pending) else "",
        str(storage) if is_own_path(storage) else "",
        quirks,
    )


def _progress(found: Mapping[str, Any], quirks: Quirks) -> str:
    """The last state of the boot, in the terms of BootProgress."""
    state = text(_part(found, "BootProgress"), "LastState")
    if state or not quirks.progress:
        return state
    part: Mapping[str, Any] = found
    for key in quirks.progress[:-1]:
        part = _part(part, key)
    own = text(part, quirks.progress[-1])
    return "OSBootStarted" if own in quirks.up else own


def _part(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = found.get(key)
    return part if isinstance(part, dict) else {}


def text(found: Mapping[str, Any], key: str) -> str:
    """A short printable text; "" for anything else."""
    value = found.get(key)
    if not isinstance(value, str):
        return ""
    value = value[:TEXT_MOST].strip()
    return value if value.isprintable() else "".join(one for one in value if one.isprintable())


def links(values: object, most: int) -> list[str]:
    """Paths in a list of links that may be followed; at most the first `most`."""
    found = values[:most] if isinstance(values, list) else []
    paths = (one.get("@odata.id") for one in found if isinstance(one, dict))
    return [path for path in paths if is_own_path(path)]


def words_of(values: object) -> frozenset[str]:
    if not isinstance(values, list):
        return frozenset()
    return frozenset(one for one in values[:64] if isinstance(one, str) and one.isalnum() and len(one) < 64)


SOURCES: Final[Mapping[str, str]] = {"disk": "Hdd", "pxe": "Pxe"}
DRIVES_MOST: Final = 48


async def switch(talk: Talk, seen: System, how: str) -> Answer:
    """Request power on or off. Raises `NoAnswer` if it is unknown whether it arrived."""
    return await talk.ask("POST", seen.reset_path, {"ResetType": how}, last=True)


async def set_boot_source(talk: Talk, seen: System) -> None:
    """Set the boot source, once; nothing if the endpoint does not set it. Raises before any power request."""
    source = talk.target.access.boot_source
    if not source:
        return
    wanted = SOURCES[source]
    if seen.boot_targets and wanted not in seen.boot_targets:
        raise Permanent("bmc-unsupported", f"{talk.target.address} cannot boot from {source}")
    boot = {"BootSourceOverrideTarget": wanted, "BootSourceOverrideEnabled": "Once"}
    if seen.quirks.whole and seen.boot_mode:
        boot["BootSourceOverrideMode"] = seen.boot_mode
    path = seen.pending_path if seen.quirks.pending and seen.pending_path else seen.path
    etag = await _etag(talk, path) if seen.quirks.etag else ""
    answer = await talk.ask("PATCH", path, {"Boot": boot}, etag=etag)
    if answer.status in (412, 428) and not etag:
        etag = await _etag(talk, path)
        answer = await talk.ask("PATCH", path, {"Boot": boot}, etag=etag)
    if answer.status >= 300:
        raise refusal(talk.target.address, answer)


async def _etag(talk: Talk, path: str) -> str:
    """Value of If-Match; `*` if the resource has no ETag."""
    answer = await talk.ask("GET", path)
    etag = answer.headers.get("etag", "") or text(answer.values(), "@odata.etag")
    return etag if etag and len(etag) < 256 and etag.isascii() and etag.isprintable() else "*"


async def healthy_storage(talk: Talk, path: str) -> str:
    """The first unhealthy drive or controller, in words; "" if all are healthy, or none is reported. For
    controllers that do not report the health of the whole system.
    """
    for unit in links((await talk.get(path)).get("Members"), DRIVES_MOST):
        found = await talk.get(unit)
        if bad := _unwell(found):
            return f"storage is {bad}"
        for link in links(found.get("Drives"), DRIVES_MOST):
            if bad := _unwell(await talk.get(link)):
                return f"a drive is {bad}"
    return ""


def _unwell(found: Mapping[str, Any]) -> str:
    status = found.get("Status")
    words = {text(status, "Health"), text(status, "HealthRollup")} if isinstance(status, dict) else set()
    return next((word.lower() for word in ("Critical", "Warning") if word in words), "")
