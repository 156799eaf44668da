"""Shapes of the API: bodies of requests, answers for the OpenAPI document, and parameters that routes
share.

Bodies are small, strict, and each has a reason; each kind of note about an incident is one body, so that
its shape says what it needs. Answers are bytes made by `room`; their models describe them and are never
filled in at run time.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import Header, Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from evac.engine.runs.requests import TEXT_MOST
from evac.model.records import dataclass

Text = Annotated[str, Field(max_length=TEXT_MOST)]
Name = Annotated[str, Field(max_length=512)]
Reason = Annotated[
    str,
    Field(
        min_length=1, max_length=TEXT_MOST, pattern=r"\S", description="The reason, recorded in the journal."
    ),
]


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is as whole as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Amount = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_whole)]
Milliseconds = Amount


class Body(BaseModel):
    """Fields that every request body has."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Reason
    who: Annotated[Name, Field(description="Who is asking; ignored if the login identifies them.")] = ""


class EnvelopeBody(BaseModel):
    """What an approval covers; see the policy."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sites: Annotated[list[Name], Field(max_length=64)] = []
    stores: Annotated[list[Name], Field(max_length=2_000)] = []
    most_lost_ms: Milliseconds = 0
    most_shed: Amount = 0


class Ask(Body):
    """A request to a run. `step`: for retry, skip, undo and attest. `typed`: site names, typed to confirm."""

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
    """Stops every run before its next effect."""

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


Row = TypeVar("Row")
LIMIT_MOST: Final = 1_000
LIMIT: Final = 100

After = Annotated[str, Query(max_length=512, description="Cursor: `next` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=LIMIT_MOST, description="Maximum rows per page.")]
AfterNumber = Annotated[int, Query(ge=0, le=2**53, description="Only entries with a higher number.")]
RunName = Annotated[str, Path(max_length=512, description="A run, or the incident it belongs to.")]
Digest = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$", description="Digest of a plan.")]
DigestBegun = Annotated[
    str, Path(pattern=r"^sha256:[0-9a-f]{12,64}$", description="Digest of a plan, or its first characters.")
]
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        pattern=r"^[!-~]*$",
        description="Repeating a request with the same key within a day has no further effect.",
    ),
]


PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}


class Problem(BaseModel):
    """An error as in RFC 9457. `code` is stable; `kind` is its family, from which programs take their exit
    code; `hint` says what to do next.
    """

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    code: str
    kind: str
    detail: str
    hint: str
    request: str


@dataclass(frozen=True, slots=True)
class Numbered:
    """One event of a run. `number` is its place in the journal, from 1."""

    number: int
    at: str | None
    kind: str
    step: str
    attempt: int
    data: dict[str, Any]


def paged(row: type[Any]) -> type[BaseModel]:
    """The shape of a page of rows."""
    fields: dict[str, Any] = {"items": (list[row], ...), "total": (int, ...), "next": (str | None, ...)}  # type: ignore[valid-type]
    made: type[BaseModel] = create_model(f"{row.__name__}Page", **fields)
    return made


_WORDS: Final = {
    400: "The body is not JSON.",
    304: "Not modified since the `ETag` in `If-None-Match`.",
    401: "Not signed in.",
    403: "Not allowed for this role, or by the policy.",
    404: "Not found.",
    409: "The current state does not allow it.",
    412: "Changed meanwhile: `If-Match` no longer matches.",
    413: "The body is too large.",
    422: "The request is not valid.",
    429: "Too many requests, by the limits of the access file; `Retry-After` says how long to wait.",
    500: "Internal error; the log has the request id.",
    503: "The store does not answer, or the estate is still loading.",
}


def answers(
    model: Any, *problems: int, media: str = "application/json", status: int = 200
) -> dict[int | str, Any]:
    """Responses of a route: the schema of its result, and the problems it can return."""
    body: dict[str, Any] = {"model": model} if model is not None else {"content": {media: {}}}
    found: dict[int | str, Any] = {status: {**body, "description": "Success."}}
    for code in sorted({401, 403, 429, 500, *problems}):
        shown = {} if code == 304 else {"content": {"application/problem+json": {"schema": PROBLEM}}}
        found[code] = {"description": _WORDS[code], **shown}
    return found
