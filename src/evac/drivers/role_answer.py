"""The role of a copy in the JSON response of a company's program or system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evac.drivers.capabilities import MemberRole, RoleReport

_ROLES: Final[Mapping[object, MemberRole]] = {
    "primary": "primary",
    "replica": "replica",
    "detached": "detached",
    "none": "none",
}
_NAMES_MAX: Final = 100


def role_from(found: object) -> RoleReport:
    """The report in a JSON object with the documented keys. Raises ValueError that says what is wrong."""
    if not isinstance(found, dict):
        raise ValueError("no object")
    said = found.get("role")
    if not isinstance(said, str) or said not in _ROLES:
        raise ValueError("role must be one of primary, replica, detached and none")
    position, history = _number(found, "position"), found.get("history", "")
    if not isinstance(history, str) or (position is not None and not history):
        raise ValueError("a position needs a history, which must be text")
    return RoleReport(
        _ROLES[said],
        _number(found, "lag_ms"),
        _names(found, "confirms"),
        _names(found, "waits_for"),
        position,
        history[:200],
    )


def _number(found: Mapping[str, object], key: str) -> int | None:
    value = found.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{key} is not a whole number of 0 or more")
    return value


def _names(found: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = found.get(key, [])
    if not isinstance(value, list) or len(value) > _NAMES_MAX or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{key} is not a list of names")
    return tuple(one[:200] for one in value)
