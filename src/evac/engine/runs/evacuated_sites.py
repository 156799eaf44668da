"""What the register says of sites that a run leaves in mid-run: only of those that are lost by now, and whose
names a person typed where more than one is left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from evac.engine.stores.guards import Guards, Mark, Permit
from evac.model.errors import NotAllowed, Retryable
from evac.watch.values import SiteState


async def leave(
    guards: Guards,
    register: Mapping[str, Mark],
    lost: Sequence[str],
    names: Sequence[str],
    typed: Collection[str],
    gone: Collection[str] = (),
) -> Permit:
    """What the register says of the sites `lost` from now on. names: all that are left together; gone: those
    that are lost now, though an orderly way out of them had begun.
    """
    new = [site for site in lost if register.get(site) == "active"]
    if new and len(names) > 1 and not set(names) <= set(typed):
        return Permit()
    if new:
        return await guards.may_leave(new, "lost", tuple(typed))
    ended = [site for site in gone if register.get(site) == "evacuating"]
    return await guards.may_mark(ended, "lost") if ended else Permit()


def must_be_lost(site: str, state: SiteState) -> None:
    """Before a person's word makes a site a lost one; it is enough for a site that is suspect.

    Raises `NotAllowed` for one that lives; `Retryable` until there is a verdict, for a leader that has just
    begun knows nothing yet.
    """
    if state == "unknown":
        raise Retryable("not-judged", f"whether {site} is lost is not known at the moment")
    if state in ("healthy", "isolated"):
        raise NotAllowed(
            "site-back",
            f"{site} is {state}, and it is not left as a lost site",
            "approve the plan that counts on it again, or cancel the run",
        )
