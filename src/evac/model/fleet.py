"""Servers and replicas as columns: struct of arrays, one row per server or binding.

Unknown values have a mask column, never NaN or zero.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from evac.model.records import dataclass
from evac.model.units import RESOURCE_COUNT

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    np = numpy
    IntColumn = NDArray[np.int64]
    IndexColumn = NDArray[np.int32]
    CodeColumn = NDArray[np.uint8]
    BoolColumn = NDArray[np.bool_]
    NameColumn = NDArray[np.bytes_]
else:

    class _Numpy:
        """numpy, read at its first use: a fifth of the start of a command that needs no array."""

        def __getattr__(self, name: str) -> Any:
            import numpy

            found = self.__dict__[name] = getattr(numpy, name)
            return found

    np = _Numpy()
    IntColumn = IndexColumn = CodeColumn = BoolColumn = NameColumn = Any

SERVING: Final = 0
SPARE: Final = 1
DARK: Final = 2
CONDEMNED: Final = 3
SERVER_STATES: Final = ("serving", "spare", "dark", "condemned")
"""serving: on, with load; spare: on, empty; dark: off, may be booted; condemned: never again."""

BMC_NO: Final = 0
BMC_YES: Final = 1
BMC_UNKNOWN: Final = 2

ON_SERVER: Final = 0
ON_POOL: Final = 1
AT_SITE: Final = 2
"""What a replica row binds to. AT_SITE: only the site is known, so all below it is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """V servers sorted by name. Indices are -1 if the fact is not known or does not apply.

    name: V utf-8 bytes; site, rack, server_class, pool, boot_server: V indices into the tuples
    of the Estate (`pool` >= 0: a self-scheduling pool owns the server and evac never places on
    it); state: V codes of SERVER_STATES; capacity: (V, R) in base units; capacity_known: (V, R);
    watts, watts_known: V; bmc: V codes; bmc_address (host, host:port or [v6]:port), serial, position
    (rack unit): V utf-8 bytes, empty if unknown.
    """

    name: NameColumn
    site: IndexColumn
    rack: IndexColumn
    server_class: IndexColumn
    pool: IndexColumn
    boot_server: IndexColumn
    state: CodeColumn
    capacity: IntColumn
    capacity_known: BoolColumn
    watts: IntColumn
    watts_known: BoolColumn
    bmc: CodeColumn
    bmc_address: NameColumn
    serial: NameColumn
    position: NameColumn

    def __len__(self) -> int:
        return len(self.name)

    def server_name(self, row: int) -> str:
        return bytes(self.name[row]).decode()

    def server_names(self, rows: IndexColumn) -> list[str]:
        """Names of many servers at once."""
        if not len(rows):
            return []
        return b"\n".join(self.name[rows].tolist()).decode().split("\n")

    def bmc_of(self, row: int) -> tuple[str, str, str]:
        """(BMC address, serial, position) of a server; empty if unknown."""
        address, serial, position = (
            bytes(column[row]).decode() for column in (self.bmc_address, self.serial, self.position)
        )
        return address, serial, position


@dataclass(frozen=True, slots=True, eq=False)
class Replicas:
    """K bindings sorted by (service, kind, target): `count` replicas of a service on a target.

    service: index into Estate.services; kind: ON_SERVER, ON_POOL or AT_SITE; target: index into
    the fleet, Estate.pools or Estate.sites; count: at least 1.
    """

    service: IndexColumn
    kind: CodeColumn
    target: IndexColumn
    count: IntColumn

    def __len__(self) -> int:
        return len(self.service)

    def same(self, other: Replicas) -> bool:
        """Whether both hold the same bindings."""
        return self is other or all(
            np.array_equal(getattr(self, column.name), getattr(other, column.name)) for column in fields(self)
        )


def pools_of(replicas: Replicas, fleet: Fleet) -> IntColumn:
    """(K,) the pool whose capacity each binding takes: its own, or that of its server; -1: none is known."""
    pool = np.where(replicas.kind == ON_POOL, replicas.target, -1).astype(np.int64)
    on_server = replicas.kind == ON_SERVER
    pool[on_server] = fleet.pool[replicas.target[on_server]]
    return pool


def no_names(count: int) -> NameColumn:
    """A column of names, all unknown."""
    return np.zeros(count, "S1")


def empty_fleet() -> Fleet:
    """A fleet of no servers, for estates that know pool totals only."""
    index = np.empty(0, np.int32)
    code = np.empty(0, np.uint8)
    return Fleet(
        name=np.empty(0, "S1"),
        site=index,
        rack=index,
        server_class=index,
        pool=index,
        boot_server=index,
        state=code,
        capacity=np.empty((0, RESOURCE_COUNT), np.int64),
        capacity_known=np.empty((0, RESOURCE_COUNT), np.bool_),
        watts=np.empty(0, np.int64),
        watts_known=np.empty(0, np.bool_),
        bmc=code,
        bmc_address=no_names(0),
        serial=no_names(0),
        position=no_names(0),
    )


def empty_replicas() -> Replicas:
    """No bindings at all."""
    return Replicas(
        np.empty(0, np.int32), np.empty(0, np.uint8), np.empty(0, np.int32), np.empty(0, np.int64)
    )
