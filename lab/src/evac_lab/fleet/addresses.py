"""Which address belongs to which server: 127.64.x.y on loopback, one an address, without any set-up.

Linux takes all of 127.0.0.0/8 for its own, so one socket that listens on every address can tell by the
address of an accepted connection which management controller was called.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "127.64"
CIRCUITS_ADDRESS: Final = f"{PREFIX}.255.1"
"""The controller of the switchgear: the feeds' breakers."""
PER_BLOCK: Final = 254
SERVERS_MOST: Final = 254 * PER_BLOCK
CIRCUITS: Final = -1
"""The number of the switchgear's controller."""
NOBODY: Final = -2


def address_of(server: int) -> str:
    """127.64.0.1 is server 0; the last octet runs from 1 to 254."""
    block, last = divmod(server, PER_BLOCK)
    return f"{PREFIX}.{block}.{last + 1}"


def server_at(address: str, servers: int) -> int:
    """The number of the server at an address; `CIRCUITS`; or `NOBODY`."""
    if address == CIRCUITS_ADDRESS:
        return CIRCUITS
    first, second, block, last = address.split(".")
    number = int(block) * PER_BLOCK + int(last) - 1
    mine = f"{first}.{second}" == PREFIX and 1 <= int(last) <= PER_BLOCK and number < servers
    return number if mine else NOBODY


def is_loopback(address: str) -> bool:
    """Whoever calls another address than 127.x.y.z is refused: nothing of the fleet leaves the machine."""
    return address.startswith("127.")
