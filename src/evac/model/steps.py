"""Kinds of plan steps, and which recovery tools each needs.

One table, read by audit, planning and verify alike.
"""

from __future__ import annotations

from typing import Final, Literal

StepKind = Literal[
    "approve",
    "fence",
    "promote",
    "boot",
    "start",
    "verify",
    "shift",
    "shed",
    "stop",
    "attest",
    "power",
    "reprotect",
]
STEP_KINDS: Final[tuple[StepKind, ...]] = (
    "approve",
    "fence",
    "promote",
    "boot",
    "start",
    "verify",
    "shift",
    "shed",
    "stop",
    "attest",
    "power",
    "reprotect",
)

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

TOOLS_OF_KIND: Final[dict[StepKind, tuple[str, ...]]] = {
    "approve": ("evac", "identity"),
    "fence": ("evac", "secrets", "vpn"),
    "promote": ("evac", "secrets", "vpn"),
    "boot": ("boot", "dhcp", "evac", "images", "inventory", "management-network", "time"),
    "start": ("deploy", "evac", "registry", "secrets"),
    "verify": ("evac", "monitoring"),
    "shift": ("dns-control", "evac"),
    "shed": ("deploy", "evac"),
    "stop": ("deploy", "evac"),
    "attest": (),
    "power": (),
    "reprotect": ("evac", "secrets"),
}
"""Roles a step of a kind cannot do without, unless people have a manual way for that kind."""

HUMAN_ROLES: Final = ("chat", "paging", "registrar", "vpn")
"""Roles no single step waits for, but people do: audited, never scheduled."""

DARK_ROLES: Final = ("dhcp", "images", "licences", "management-network", "unseal")
"""Roles that only a dark site needs before its servers serve: a company may do without a service for them."""

FENCE_RUNGS: Final = ("none", "demote", "isolate", "power-off", "destroy")
"""How hard an old primary is stopped, weakest first (rung of a fence)."""

STEP_WORDS: Final[dict[StepKind, str]] = {
    "approve": "approve the plan",
    "fence": "make sure the old primary cannot write",
    "promote": "make a replica the primary",
    "boot": "power a server on",
    "start": "start replicas",
    "verify": "check that it answers",
    "shift": "move the traffic",
    "shed": "stop replicas to make room",
    "stop": "stop cleanly",
    "attest": "a person vouches for a fact",
    "power": "give power to a feed or a rack",
    "reprotect": "let a copy that is behind follow the primary again",
}
