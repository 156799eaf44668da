"""The registry of drivers, one line for each, and how a process creates them.

A driver's modules are imported on first use, so libraries of unused systems need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar, cast

from evac.drivers import (
    backup_command,
    backup_reader,
    backup_request,
    borg,
    command,
    dns,
    etcd,
    etcd_snapshot,
    haproxy,
    http,
    ipmi,
    kafka,
    kubernetes,
    manual,
    mariabackup,
    mariadb,
    octodns,
    patroni,
    pg_basebackup,
    pgbackrest,
    postgres,
    powerdns,
    process,
    rabbitmq,
    redfish,
    redis,
    redis_rdb,
    restic,
    s3,
)
from evac.drivers.port import Driver, Value
from evac.drivers.spec import DriverSpec
from evac.model.errors import Permanent

DRIVERS: Final[Mapping[str, DriverSpec]] = MappingProxyType(
    {
        one.name: one
        for one in (
            backup_command.DRIVER,
            backup_reader.DRIVER,
            backup_request.DRIVER,
            borg.DRIVER,
            command.DRIVER,
            dns.DRIVER,
            etcd.DRIVER,
            etcd_snapshot.DRIVER,
            haproxy.DRIVER,
            http.DRIVER,
            ipmi.DRIVER,
            kafka.DRIVER,
            kubernetes.DRIVER,
            manual.DRIVER,
            manual.NOOP,
            mariabackup.DRIVER,
            mariadb.DRIVER,
            octodns.DRIVER,
            patroni.DRIVER,
            pg_basebackup.DRIVER,
            pgbackrest.DRIVER,
            postgres.DRIVER,
            powerdns.DRIVER,
            process.DRIVER,
            rabbitmq.DRIVER,
            redfish.DRIVER,
            redis.DRIVER,
            redis_rdb.DRIVER,
            restic.DRIVER,
            s3.DRIVER,
        )
    }
)

Maker = Callable[[], Driver]
_C = TypeVar("_C")


def spec_of(name: str) -> DriverSpec | None:
    """The declaration of a driver, also of one run by an agent (`postgres@pangyo`); None for an unknown
    name.
    """
    return DRIVERS.get(name.partition("@")[0])


def can(name: str, *capabilities: type) -> bool:
    """Whether the driver has one of these capabilities."""
    spec = spec_of(name)
    return spec is not None and spec.can(*capabilities)


def offers(name: str, settings: Mapping[str, Value], *capabilities: type) -> bool:
    """Whether an endpoint of the driver with these settings has one of these capabilities."""
    spec = spec_of(name)
    return spec is not None and spec.offers(settings, *capabilities)


def proves(name: str, proof: object) -> bool:
    """Whether a fence by the driver gives this proof."""
    spec = spec_of(name)
    return spec is not None and proof in spec.proofs


def acts(name: str) -> bool:
    """Whether the driver acts on a real system, so that its observations mean something."""
    spec = spec_of(name)
    return spec is None or spec.acts


def is_by_person(name: str) -> bool:
    """Whether a person does the work of the driver."""
    spec = spec_of(name)
    return spec is not None and spec.by_person


def create(name: str) -> Driver:
    """Create a driver. Raises `Permanent` for an unknown name, and if its library is not installed."""
    spec = DRIVERS.get(name)
    if spec is None:
        raise Permanent(
            "driver-unknown", f"there is no driver named {name}", f"use one of: {', '.join(sorted(DRIVERS))}"
        )
    return spec.create()


class Drivers:
    """The drivers of one process, each created on first use, and closed together.

    makers: other ways to create some of them, such as simulated ones or those of a site's agent.
    """

    def __init__(self, makers: Mapping[str, Maker] | None = None) -> None:
        self._makers = dict(makers or {})
        self._made: dict[str, Driver] = {}

    def know(self, makers: Mapping[str, Maker]) -> None:
        """Add ways to create drivers that were not created yet."""
        self._makers.update(makers)

    def get(self, name: str) -> Driver:
        """The driver with that name. Raises the errors of `create`."""
        driver = self._made.get(name)
        if driver is None:
            maker = self._makers.get(name)
            driver = maker() if maker is not None else create(name)
            self._made[name] = driver
        return driver

    def able(self, name: str, capability: type[_C]) -> _C:
        """The driver with that name, typed as a capability. Raises `Permanent` if it does not declare it, and
        the errors of `create`.
        """
        if not can(name, capability):
            raise Permanent("capability-missing", f"the driver {name} is not a {capability.__name__}")
        return cast("_C", self.get(name))

    async def close(self) -> None:
        """Close every driver; all are tried, and the first error is raised at the end."""
        made, self._made = list(self._made.values()), {}
        first: Exception | None = None
        for driver in made:
            try:
                await driver.close()
            except Exception as error:  # a failure must not leave the others open
                first = first or error
        if first is not None:
            raise first
