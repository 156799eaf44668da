"""Reads and writes record sets through octoDNS: one JSON object a line in, one out. Imports nothing of evac.

Run by the interpreter that has octoDNS, in a separate process: providers block, retry at will, and cache what
they have read, so the driver kills this process when its time is over.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

REFUSED = frozenset({400, 401, 403, 404})


class NotDone(Exception):
    """Not done, and a retry does not help."""


def opened(asked: dict[str, Any]) -> tuple[Any, Any]:
    """A fresh instance of the provider, without cache, and the current content of the zone."""
    try:
        from octodns.manager import Manager
        from octodns.zone import Zone
    except ImportError as error:
        raise NotDone("octoDNS is not installed: pip install 'evac[octodns]'") from error

    class OneProvider(Manager):  # type: ignore[misc]
        """Creates only the selected provider: another may lack its package or its key."""

        def _config_providers(self, found: dict[str, Any]) -> Any:
            return super()._config_providers({k: v for k, v in found.items() if k == asked["provider"]})

    try:
        provider = OneProvider(asked["config"]).providers.get(asked["provider"])
    except Exception as error:
        raise NotDone(f"octoDNS cannot use {asked['config']}: {type(error).__name__}: {error}") from error
    if provider is None:
        raise NotDone(f"{asked['config']} has no provider {asked['provider']}")
    if not hasattr(provider, "apply"):
        raise NotDone(f"{asked['provider']} is read-only")
    zone = Zone(asked["zone"], [])
    there = provider.populate(zone, target=True, lenient=True)
    if there is False or (there is None and not zone.records):
        raise NotDone(f"{asked['provider']} has no zone {asked['zone']}")
    return provider, zone


def seen(asked: dict[str, Any], zone: Any) -> dict[str, Any]:
    """For the relevant names: addresses, TTLs, the token, and records that must not be replaced by
    addresses.
    """
    wanted = {tuple(one) for one in asked["names"]}
    names = {name for name, _ in wanted}
    sets, blocked, token = [], [], "0"
    for record in zone.records:
        fqdn, kind = record.fqdn.lower(), record._type
        special = bool(getattr(record, "dynamic", None) or getattr(record, "geo", None))
        if fqdn == asked["token_name"] and kind == "TXT":
            token = record.values[0]
        elif fqdn in names and (special or kind == "CNAME" or kind.endswith("ALIAS")):
            blocked.append(f"{fqdn} {'dynamic ' if special else ''}{kind}")
        elif (fqdn, kind) in wanted:
            sets.append([fqdn, kind, record.ttl, [str(value) for value in record.values]])
    return {"sets": sets, "blocked": sorted(blocked), "token": token}


def written(asked: dict[str, Any], provider: Any, zone: Any) -> None:
    """Change only the requested record sets, whatever else a provider would add."""
    from octodns.record import Record

    if getattr(provider, "apply_disabled", False):
        raise NotDone(f"{asked['provider']} has apply_disabled")
    desired, ours = zone.copy(), set()
    for name, kind, ttl, values in asked["sets"]:
        ours.add((name, kind))
        for record in zone.records:
            if (record.fqdn.lower(), record._type) == (name, kind):
                desired.remove_record(record)
        if values:
            data = {"type": kind, "ttl": ttl, "values": values}
            host = desired.hostname_from_fqdn(name)
            desired.add_record(Record.new(desired, host, data, lenient=True), lenient=True)
    plan = provider.plan(desired)
    if plan is None:
        return
    plan.changes = [one for one in plan.changes if (one.record.fqdn.lower(), one.record._type) in ours]
    if plan.changes:
        provider.apply(plan)


def status_of(error: BaseException) -> int:
    """The HTTP status of a refusal, from a library's error; 0 if it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", response)
    return status if isinstance(status, int) else 0


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    writing = False
    try:
        provider, zone = opened(asked)
        if asked["sets"] is not None:
            writing = True
            written(asked, provider, zone)
        return seen(asked, zone)
    except NotDone as error:
        return {"error": "refused", "why": str(error)[:300]}
    except Exception as error:
        name = type(error).__name__
        denied = status_of(error) in REFUSED or any(word in name for word in ("Auth", "Forbidden"))
        kind = "refused" if denied and not writing else "unknown" if writing else "again"
        return {"error": kind, "why": f"{name}: {error}"[:300]}


def main() -> None:
    """Serve until the driver closes the pipe. Output that a provider prints is discarded."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        out.write(json.dumps(answer(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
