"""Single changes at a controller: power, boot source, and a look at the drives. Each is sent once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from evac.drivers.redfish.calls import Talk, refusal
from evac.drivers.redfish.system import System, links, text
from evac.model.errors import Permanent
from evac.net.http_calls import Answer

SOURCES: Final[Mapping[str, str]] = {"disk": "Hdd", "pxe": "Pxe"}
DRIVES_MOST: Final = 48


async def switch(talk: Talk, seen: System, how: str) -> Answer:
    """Asks for power on or off. Raises `NoAnswer` where nobody knows whether it arrived."""
    return await talk.ask("POST", seen.reset_path, {"ResetType": how}, last=True)


async def set_boot_source(talk: Talk, seen: System) -> None:
    """From where it boots, once; nothing where the endpoint leaves it as it is. Raises before any power."""
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
    """What If-Match must say; `*` where the resource has no ETag."""
    answer = await talk.ask("GET", path)
    etag = answer.headers.get("etag", "") or text(answer.values(), "@odata.etag")
    return etag if etag and len(etag) < 256 and etag.isascii() and etag.isprintable() else "*"


async def healthy_storage(talk: Talk, path: str) -> str:
    """The first drive or controller that is not well, in words; "" where all are, or none is told. For
    controllers whose system does not say how it is as a whole.
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
