"""Reads back what `evac observe --power --output json` wrote: which servers were on, and when that was."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from evac.model.errors import InvalidInput

OLDEST_MS: Final = 3_600_000
"""Power facts that are older say nothing about now: who has gone off since would never be booted."""
_LARGEST_BYTES: Final = 64 << 20
_ON: Final = frozenset({"on", "rising"})
_HINT: Final = "make it anew: evac observe ESTATE --power --output json"


def servers_on(path: Path, now_ms: int) -> tuple[str, ...]:
    """Names of the servers that were seen on or on their way there, sorted. Raises InvalidInput."""
    power = _read(path).get("power")
    if not isinstance(power, dict):
        raise InvalidInput("power-facts", f"{path} says nothing of the power of servers", _HINT)
    age_ms = now_ms - _moment_ms(path, power.get("observed_at"))
    if not -OLDEST_MS <= age_ms <= OLDEST_MS:
        raise InvalidInput("power-facts-old", f"what {path} says was not seen within the last hour", _HINT)
    try:
        rows = [row for site in power["sites"] for row in site["servers"]]
        found = {row["server"] for row in rows if row["power"] in _ON}
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            "power-facts", f"{path} does not say server by server what is on", _HINT
        ) from error
    if not all(isinstance(name, str) for name in found):
        raise InvalidInput("power-facts", f"{path} names servers by something that is no name", _HINT)
    return tuple(sorted(found))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InvalidInput("power-facts", f"{path} is larger than {_LARGEST_BYTES >> 20} MiB", _HINT)
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput("power-facts", f"{path} cannot be read: {error.strerror}", _HINT) from error
    except orjson.JSONDecodeError as error:
        raise InvalidInput("power-facts", f"{path} is no JSON: {error}", _HINT) from error
    if not isinstance(found, dict):
        raise InvalidInput("power-facts", f"{path} is not what `evac observe` writes", _HINT)
    return found


def _moment_ms(path: Path, stated: object) -> int:
    try:
        moment = datetime.fromisoformat(str(stated))
    except ValueError as error:
        raise InvalidInput("power-facts", f"{path} does not say when it was seen", _HINT) from error
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
