"""What shall be run: asked for by a person, or by the answer to a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evac.engine.stores.guards import Mark


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be run. leaving, mark: sites that are left by it, and what the register says of them
    meanwhile; ends: what it says of which sites once the run succeeded. approvals: None as policy says, 0
    where policy has agreed beforehand. typed: names of sites that a person typed. names: sites that a person
    must type before it goes on; until then the register does not say that they are left. who: asked for it;
    empty where evac itself did.
    """

    incident: str
    plan: bytes
    reason: str
    mode: str
    leaving: tuple[str, ...] = ()
    mark: Mark = "lost"
    ends: Mapping[str, Mark] = field(default_factory=dict)
    approvals: int | None = None
    typed: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    who: str = ""
