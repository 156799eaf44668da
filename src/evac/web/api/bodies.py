"""Bodies of requests that change something: small, strict, and each with a reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from evac.engine.runs.requests import TEXT_MOST

Text = Annotated[str, Field(max_length=TEXT_MOST)]
Name = Annotated[str, Field(max_length=512)]
Reason = Annotated[
    str, Field(min_length=1, max_length=TEXT_MOST, pattern=r"\S", description="Why; in the journal.")
]


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is as whole as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Amount = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_whole)]
Milliseconds = Amount


class Body(BaseModel):
    """What every one of them says."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Reason
    who: Annotated[Name, Field(description="Who asks; ignored where a login says it.")] = ""


class EnvelopeBody(BaseModel):
    """What an approval covers, see the policy."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sites: Annotated[list[Name], Field(max_length=64)] = []
    stores: Annotated[list[Name], Field(max_length=2_000)] = []
    most_lost_ms: Milliseconds = 0
    most_shed: Amount = 0


class Ask(Body):
    """A request to a run. step: of retry, skip, undo, attest. typed: names of sites that the person typed."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"verb": "pause", "reason": "people inside", "for_ms": 600_000}]},
    )
    verb: Literal["approve", "pause", "resume", "retry", "skip", "cancel", "undo", "attest", "limit"]
    step: Name = ""
    for_ms: Milliseconds = 0
    then: Literal["resume", "cancel", "stay"] = "stay"
    ticket: Text = ""
    envelope: EnvelopeBody | None = None
    signature: Text = ""
    evidence: Annotated[dict[Name, str | Whole | bool], Field(max_length=64)] = {}
    typed: Annotated[list[Name], Field(max_length=64)] = []
    limit: Name = ""
    value: Name = ""


class Hold(Body):
    """Everything stops before its next effect."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"reason": "smoke in hall 2, people inside"}]},
    )


class WhatIfBody(BaseModel):
    """Fault domains that are lost at once."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"domains": ["pangyo"]}]}
    )
    domains: Annotated[list[Name], Field(min_length=1, max_length=64)]


def plain(body: BaseModel) -> dict[str, Any]:
    return body.model_dump(mode="json")
