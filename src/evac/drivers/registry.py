"""Names of drivers and how each is made.

A driver is imported when it is first asked for: nobody needs the libraries of systems they do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Final

from evac.drivers.port import Driver
from evac.model.errors import Permanent


@dataclass(frozen=True, slots=True)
class Known:
    """Where a driver lives: `maker` in `module` (no arguments), and the extra that brings its library."""

    module: str
    maker: str
    extra: str = ""


DRIVERS: Final[Mapping[str, Known]] = MappingProxyType(
    {
        "command": Known("evac.drivers.command.driver", "CommandDriver"),
        "dns": Known("evac.drivers.dns.driver", "DnsDriver"),
        "haproxy": Known("evac.drivers.haproxy.driver", "HaproxyDriver"),
        "http": Known("evac.drivers.http.driver", "HttpDriver"),
        "ipmi": Known("evac.drivers.ipmi.driver", "IpmiDriver"),
        "kubernetes": Known("evac.drivers.kubernetes.driver", "KubernetesDriver", "k8s"),
        "manual": Known("evac.drivers.manual", "ManualDriver"),
        "noop": Known("evac.drivers.noop", "NoopDriver"),
        "patroni": Known("evac.drivers.patroni.driver", "PatroniDriver", "postgres"),
        "postgres": Known("evac.drivers.postgres.driver", "PostgresDriver", "postgres"),
        "process": Known("evac.drivers.process.driver", "ProcessDriver"),
        "redfish": Known("evac.drivers.redfish.driver", "RedfishDriver", "redfish"),
        "redis": Known("evac.drivers.redis.driver", "RedisDriver", "redis"),
    }
)

Maker = Callable[[], Driver]


def create(name: str) -> Driver:
    """A new driver. Raises `Permanent` for a name that nobody has, and where its library is not installed."""
    known = DRIVERS.get(name)
    if known is None:
        raise Permanent(
            "driver-unknown", f"there is no driver named {name}", f"use one of: {', '.join(sorted(DRIVERS))}"
        )
    try:
        maker: Maker = getattr(import_module(known.module), known.maker)
    except ModuleNotFoundError as error:
        if not known.extra or (error.name or "").partition(".")[0] == "evac":
            raise
        raise Permanent(
            "driver-library-missing",
            f"the driver {name} needs {error.name}, which is not installed",
            f"install it: pip install 'evac[{known.extra}]'",
        ) from error
    return maker()


class Drivers:
    """The drivers of one process, each made once when it is first needed, and closed together.

    makers: other ways to make some of them, such as simulated ones or the hand of a site's agent.
    """

    def __init__(self, makers: Mapping[str, Maker] | None = None) -> None:
        self._makers = dict(makers or {})
        self._made: dict[str, Driver] = {}

    def know(self, makers: Mapping[str, Maker]) -> None:
        """More ways to make drivers, for those not made yet."""
        self._makers.update(makers)

    def get(self, name: str) -> Driver:
        """The driver of that name. Raises what `create` raises."""
        driver = self._made.get(name)
        if driver is None:
            maker = self._makers.get(name)
            driver = maker() if maker is not None else create(name)
            self._made[name] = driver
        return driver

    async def close(self) -> None:
        """Closes every driver; all are tried, and the first error is raised at the end."""
        made, self._made = list(self._made.values()), {}
        first: Exception | None = None
        for driver in made:
            try:
                await driver.close()
            except Exception as error:  # one that fails must not keep the others open
                first = first or error
        if first is not None:
            raise first
