"""Clean stops of an evacuation: what has moved is stopped, and the rest before the site goes dark."""

from __future__ import annotations

from evac.planning.assembly.milestones import Times
from evac.planning.assembly.steps import Draft


def add_stops(draft: Draft, times: Times) -> None:
    """One stop a service that stands in the lost site: after it moved, or just before the deadline."""
    instance, s = draft.instance, draft.instance.services
    for service in range(len(s)):
        if s.surviving[service] >= s.n[service]:
            continue
        length = int(s.shed[service])
        moved = times.base_at[service] + length <= instance.grace
        at = int(times.base_at[service]) if moved else max(0, instance.grace - length)
        after = (draft.last_of[service],) if moved and service in draft.last_of else ()
        name = s.id[service]
        words = "its replacement serves" if moved else "the site still has power"
        draft.add("stop", name, f"stop:{name}", at, at + length, after=after, precheck=words)
