"""What every route of the war room is given: the office, who may do what, and the answers that are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from evac.model.errors import Unavailable
from evac.office.facts import EstateFacts
from evac.office.office import Office
from evac.office.requests import Counter
from evac.web.access.port import Access
from evac.web.metrics import Metrics
from evac.web.setting import WebSetting
from evac.web.shelf import Shelf


@dataclass(frozen=True, slots=True)
class WarRoom:
    """One for an application, under `app.state.room`."""

    office: Office
    access: Access
    setting: WebSetting
    counter: Counter
    metrics: Metrics
    shelf: Shelf = field(default_factory=Shelf)
    tables: dict[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> EstateFacts:
        """Raises Unavailable until the estate was read, in the words of what is wrong with it."""
        facts = self.office.facts
        if facts is None:
            raise Unavailable(self.office.situation.problem or "the estate is being read")
        return facts


def room_of(connection: HTTPConnection) -> WarRoom:
    room: WarRoom = connection.app.state.room
    return room
