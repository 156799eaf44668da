"""EV137: members of one store on one server or in one rack."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.derive.domains import resolve, server_row
from evac.model.estate import Store


def check(context: Context) -> Iterator[Finding]:
    """Warning for each store with several members on one server or in one rack: one fault takes them all."""
    losses = context.impacts.losses.index
    for store in context.estate.stores:
        together = _together(context, store)
        if not together:
            continue
        where = listed([f"{counted(len(rows), 'member')} in {name}" for name, rows in together.items()])
        first = next(iter(together.values()))
        yield RULE.finding(
            context,
            "warning",
            store.id,
            f"{store.id} has {where}: one fault takes them all",
            "Place each member in its own rack, ideally in another hall or site.",
            losses=context.worst_first(losses[name] for name in together if name in losses),
            paths=(f"stores/{store.id}/members/{first[1]}", f"stores/{store.id}"),
        )


def _together(context: Context, store: Store) -> dict[str, list[int]]:
    """Servers and racks with several members, and the numbers of these members.

    A rack whose members are all on one server is left out: the server says more.
    """
    estate = context.estate
    servers: dict[str, list[int]] = {}
    racks: dict[str, list[int]] = {}
    for number, member in enumerate(store.members):
        domain = resolve(context.impacts.top, member.at)
        if domain.kind == "rack":
            racks.setdefault(domain.id, []).append(number)
        if domain.kind == "server":
            row = server_row(estate, member.at)
            servers.setdefault(estate.fleet.server_name(row), []).append(number)
            if estate.fleet.rack[row] >= 0:
                racks.setdefault(estate.racks[estate.fleet.rack[row]].id, []).append(number)
    several = [(name, rows) for name, rows in (*servers.items(), *racks.items()) if len(rows) > 1]
    on_server = [rows for rows in servers.values() if len(rows) > 1]
    return {name: rows for name, rows in several if name in servers or rows not in on_server}


RULE = Rule(
    "members-together",
    "EV137",
    "Members of one store on one server or in one rack",
    check,
    per_loss=False,
)
