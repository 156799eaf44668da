"""How the lab's clients write to its MariaDB: directly to the server of each site."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import asyncmy
from asyncmy.errors import MySQLError

from evac.model.records import dataclass

STORE: Final = "orders"
CLIENT: Final = "shop"
"""An account without the right to write to a server that is read-only."""
_READ_ONLY: Final = 1290


@dataclass(frozen=True, slots=True)
class OrdersDatabase:
    """How clients reach each server. hosts: site -> address."""

    hosts: Mapping[str, str]
    port: int
    password: str


class OrdersTarget:
    """Writes to the MariaDB of one site, over a connection that stays open."""

    store = STORE

    def __init__(self, site: str, database: OrdersDatabase) -> None:
        self._site, self._database = site, database
        self._connection: Any = None

    async def write(self, number: int, seconds: float) -> str:
        """Why a row was not acknowledged; "" if it was."""
        try:
            async with asyncio.timeout(seconds):
                if self._connection is None:
                    self._connection = await asyncmy.connect(
                        host=self._database.hosts[self._site],
                        port=self._database.port,
                        user=CLIENT,
                        password=self._database.password,
                        db="app",
                        connect_timeout=seconds,
                        autocommit=True,
                    )
                async with self._connection.cursor() as cursor:
                    await cursor.execute("INSERT INTO probes VALUES (%s, %s)", (self._site, number))
        except (OSError, EOFError, TimeoutError, MySQLError) as error:
            # A server that refuses keeps its connection; one that is silent or gone loses it.
            if not (isinstance(error, MySQLError) and error.args[:1] == (_READ_ONLY,)):
                self.end()
            return type(error).__name__
        return ""

    def end(self) -> None:
        """Closes the connection without notifying the server, which may be dead."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
