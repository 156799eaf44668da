"""Words that an estate and the steps of a plan share: roles of recovery tools, rungs of fences."""

from __future__ import annotations

from typing import Final

TOOL_ROLES: Final = (
    "deploy",
    "registry",
    "identity",
    "vpn",
    "dns-control",
    "registrar",
    "monitoring",
    "paging",
    "chat",
    "inventory",
    "secrets",
    "time",
    "boot",
    "evac",
    "dhcp",
    "images",
    "licences",
    "management-network",
    "unseal",
)
"""What recovery itself needs. A company names the service that fills each role."""

HUMAN_ROLES: Final = ("chat", "paging", "registrar", "vpn")
"""Roles no single step waits for, but people do: audited, never scheduled."""

DARK_ROLES: Final = ("dhcp", "images", "licences", "management-network", "unseal")
"""Roles that only a dark site needs before its servers serve: a company may do without a service for them."""

FENCE_RUNGS: Final = ("none", "demote", "isolate", "power-off", "destroy")
"""How hard an old primary is stopped, weakest first (rung of a fence)."""
