"""What may be wrong with a server or with its management controller, and who has it.

Faults are drawn once, from a seed: the same seed and shares give the same servers. A person may set and clear
them while the fleet runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from evac.model.errors import InvalidInput

FAULTS: Final = (
    "none",
    "dead",
    "refusing",
    "slow",
    "hanging",
    "half-dead",
    "lying",
    "boot-loop",
    "no-boot",
    "slow-boot",
    "wrong-serial",
    "wrong-image",
    "degraded",
    "sessions-full",
    "rebooting",
    "crashing",
    "changed-password",
    "read-only",
)
"""Codes of the column `fault` are places in this tuple."""

MEANING: Final = MappingProxyType(
    {
        "dead": "no packet comes back",
        "refusing": "the connection is closed at once",
        "slow": "every answer takes seconds",
        "hanging": "it takes connections and never answers",
        "half-dead": "the root answers; systems, chassis and managers give 500",
        "lying": "a reset is answered with 204, and nothing happens",
        "boot-loop": "it starts again and again, and never gets to the system",
        "no-boot": "power is on, and the system never comes up",
        "slow-boot": "the boot takes five times as long",
        "wrong-serial": "another machine answers at this address",
        "wrong-image": "it comes up with the host name of another server",
        "degraded": "it comes up with a failed drive",
        "sessions-full": "503 with Retry-After; room comes a while after the first call",
        "rebooting": "it is silent for a while from the first call on",
        "crashing": "it does the reset, drops the connection, and is silent for a while",
        "changed-password": "the password is another one",
        "read-only": "the user may read and not switch",
    }
)
DEFAULT_SHARES: Final = MappingProxyType(
    {"dead": 0.02, "slow": 0.01, "boot-loop": 0.005, "wrong-serial": 0.002}
)


@dataclass(frozen=True, slots=True)
class Shares:
    """Fault -> share of the servers that have it, from 0 to 1."""

    of: Mapping[str, float]

    def __post_init__(self) -> None:
        for fault, share in self.of.items():
            code_of(fault)
            if not 0 <= share <= 1:
                raise InvalidInput(
                    "fleet-faults", f"{share:g} is no share of {fault}", "a number from 0 to 1"
                )
        if sum(self.of.values()) > 1:
            raise InvalidInput(
                "fleet-faults", "the shares of the faults are more than the whole", "lower them"
            )


def code_of(fault: str) -> int:
    """Raises `InvalidInput` for a word that is no fault."""
    if fault not in FAULTS:
        raise InvalidInput("fleet-faults", f"{fault[:40]} is no fault", f"one of {', '.join(FAULTS)}")
    return FAULTS.index(fault)


def draw(servers: int, shares: Shares, seed: int) -> npt.NDArray[np.uint8]:
    """(V,) codes. Each server has at most one fault; the counts are the shares, rounded."""
    order = np.random.default_rng([seed, 1]).permutation(servers)
    found = np.zeros(servers, np.uint8)
    first = 0
    for fault, share in sorted(shares.of.items()):
        count = round(share * servers)
        found[order[first : first + count]] = code_of(fault)
        first += count
    return found


def draw_racks(racks: int, count: int, seed: int) -> list[int]:
    """Racks whose switch is down."""
    return sorted(np.random.default_rng([seed, 3]).permutation(racks)[:count].tolist())


def read_shares(words: str) -> dict[str, float]:
    """`dead=2%,slow=0.01`; `none` is nobody. Raises `InvalidInput`."""
    if words.strip() == "none":
        return {}
    found = {}
    for word in words.split(","):
        fault, _, share = word.strip().partition("=")
        code_of(fault)
        try:
            found[fault] = float(share.rstrip("%")) / (100 if share.endswith("%") else 1)
        except ValueError as error:
            raise InvalidInput(
                "fleet-faults", f"{word.strip()[:40]} is no share of a fault", "write dead=2%,slow=1%"
            ) from error
    return found
