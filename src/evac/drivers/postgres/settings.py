"""Settings of a running member, changed through ALTER SYSTEM: nothing here commits a transaction that writes,
because a commit waits for standbys, and those may be dead.
"""

from __future__ import annotations

from evac.drivers.postgres.conninfo import SyncSet, literal
from evac.drivers.postgres.link import Link

POLL_S = 0.005


async def set_system(link: Link, name: str, value: str | None, *, secret: bool = False) -> None:
    """ALTER SYSTEM; None resets. Not yet reloaded."""
    if secret:
        # The statement holds a password: this session's statements stay out of the server's log.
        await link.change(
            "SET log_statement = 'none'; SET log_min_duration_statement = -1;"
            "SET log_min_error_statement = 'panic'"
        )
    if value is None:
        await link.change(f"ALTER SYSTEM RESET {name}")
    else:
        await link.change(f"ALTER SYSTEM SET {name} = {literal(value)}", secret=secret)


async def reload(link: Link) -> None:
    await link.change("SELECT pg_reload_conf()")


async def set_sync(link: Link, wanted: SyncSet) -> None:
    """The synchronous set, reloaded and seen to hold. Without it every commit after a failover hangs."""
    await set_system(link, "synchronous_standby_names", wanted.text())
    await reload(link)
    while await link.value("SELECT current_setting('synchronous_standby_names')") != wanted.text():
        await link.pause(POLL_S)


async def stir(link: Link) -> None:
    """Writes a few bytes that mean nothing into the log. Commits that wait go on when a standby next confirms
    something, and one that holds all there is says nothing for as long as `wal_receiver_status_interval`.
    It is no transaction of its own, so that it waits for no standby itself.
    """
    await link.change("SELECT pg_logical_emit_message(false, 'evac', '')")
