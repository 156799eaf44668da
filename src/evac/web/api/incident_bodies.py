"""What people write down about an incident: one body for each kind of note, so that its shape says what it
needs.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from evac.incident.notes import NAME_MOST, TEXT_MOST, ComponentState, Note
from evac.incident.regulator import FACTS

_PLAIN: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff"
WORDS: Final = rf"^[^{_PLAIN}]*$"
SAID: Final = rf"^[^{_PLAIN}]*[^\s{_PLAIN}][^{_PLAIN}]*$"
KEY: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
Text = Annotated[str, Field(max_length=TEXT_MOST, pattern=WORDS)]
Said = Annotated[str, Field(min_length=1, max_length=TEXT_MOST, pattern=SAID)]
Name = Annotated[str, Field(max_length=NAME_MOST, pattern=WORDS)]
Named = Annotated[str, Field(min_length=1, max_length=NAME_MOST, pattern=SAID)]
IncidentName = Annotated[str, Path(max_length=512, description="An incident, or the run that answers it.")]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    who: Annotated[Name, Field(description="Who writes; ignored where a login says it.")] = ""


class NoteSaid(_Written):
    """Something seen, thought or done."""

    kind: Literal["note"]
    text: Said


class CommandSaid(_Written):
    """Who commands from now on; an empty value: nobody does any more."""

    kind: Literal["command"]
    value: Name
    text: Text = ""


class UpdateSaid(_Written):
    """A status update: a draft for people inside, or published, which is public at once. name: its title."""

    kind: Literal["draft", "update"]
    name: Name = ""
    text: Said


class StateSaid(_Written):
    """A component of the status page is in a state from now on, because a person says so."""

    kind: Literal["state"]
    name: Named
    value: ComponentState
    text: Text = ""


class FactSaid(_Written):
    """A field of the report that no journal can know."""

    kind: Literal["fact"]
    name: Annotated[str, Field(json_schema_extra={"enum": sorted(FACTS)}, max_length=NAME_MOST)]
    value: Said
    text: Text = ""


class ResolvedSaid(_Written):
    """The incident is over."""

    kind: Literal["resolved"]
    text: Text = ""


NoteBody = Annotated[
    NoteSaid | CommandSaid | UpdateSaid | StateSaid | FactSaid | ResolvedSaid, Field(discriminator="kind")
]


class IncidentBody(_Written):
    """An incident that people open by their first note, before anything is carried out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"incident": "fire-7", "text": "smoke in hall 2"}]},
    )
    incident: Annotated[str, Field(pattern=KEY, max_length=128)]
    text: Said


def note_of(incident: str, body: _Written) -> Note:
    """The note without its id, its writer and its moment."""
    told = body.model_dump(mode="json", exclude={"who"})
    return Note(
        "", incident, told["kind"], "", 0, told.get("text", ""), told.get("name", ""), told.get("value", "")
    )
