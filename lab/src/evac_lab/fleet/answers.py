"""Answers of a Redfish service: status, headers, JSON, and errors with the messages of the Base registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import orjson

REGISTRY: Final = "Base.1.18"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. headers: lower-case names."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """status, JSON, and headers beside those of every answer."""

    status: int = 200
    body: Json | None = None
    headers: tuple[tuple[str, str], ...] = ()
    allow: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the Base registry. words: `%1` stands for the first argument."""

    words: str
    severity: str
    resolution: str
    arguments: int = 0


MESSAGES: Final = MappingProxyType(
    {
        "GeneralError": Message("A general error has occurred.", "Critical", "Try again."),
        "MalformedJSON": Message("The body is no JSON object.", "Critical", "Send another body."),
        "ResourceMissingAtURI": Message("There is no resource at %1.", "Critical", "Ask for another.", 1),
        "OperationNotAllowed": Message("The method is not allowed.", "Critical", "Use one that Allow names."),
        "ActionParameterMissing": Message("The action %1 needs %2.", "Critical", "Send the parameter.", 2),
        "ActionParameterNotSupported": Message("%1 is no parameter of %2.", "Warning", "Leave it out.", 2),
        "ActionParameterValueNotInList": Message(
            "%1 is no value of %2 of %3.", "Warning", "Use an allowed value.", 3
        ),
        "PropertyMissing": Message("The property %1 is missing.", "Warning", "Send the property.", 1),
        "PropertyNotWritable": Message("The property %1 cannot be written.", "Warning", "Leave it out.", 1),
        "PropertyValueNotInList": Message("%1 is no value of %2.", "Warning", "Use a value of the list.", 2),
        "PropertyValueTypeError": Message(
            "%1 has the wrong type for %2.", "Warning", "Use the right one.", 2
        ),
        "InsufficientPrivilege": Message("The user may not do this.", "Critical", "Use another account."),
        "NoValidSession": Message("There is no valid session.", "Critical", "Log in first."),
        "SessionLimitExceeded": Message(
            "The maximum number of user sessions is reached.", "Critical", "Close one, or wait."
        ),
        "InternalError": Message("The service has met an error of its own.", "Critical", "Reset it."),
    }
)
"""Words of our own for the keys of the registry."""


def information(key: str, *arguments: str) -> Json:
    """One entry of @Message.ExtendedInfo."""
    message = MESSAGES[key]
    words = message.words
    for place, argument in enumerate(arguments, 1):
        words = words.replace(f"%{place}", argument)
    return {
        "@odata.type": "#Message.v1_1_2.Message",
        "MessageId": f"{REGISTRY}.{key}",
        "Message": words,
        "MessageArgs": list(arguments),
        "MessageSeverity": message.severity,
        "Resolution": message.resolution,
    }


def refused(
    status: int,
    key: str,
    *arguments: str,
    allow: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """An error as Redfish says it."""
    return refusals(status, [information(key, *arguments)], allow, headers)


def refusals(
    status: int, entries: list[Json], allow: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Answer:
    first = entries[0]
    error = {"code": first["MessageId"], "message": first["Message"], "@Message.ExtendedInfo": entries}
    return Answer(status, {"error": error}, headers, allow=allow)


def encode(answer: Answer, head_only: bool, keep_alive: bool) -> bytes:
    """The bytes of an answer."""
    content = b"" if answer.body is None else orjson.dumps(answer.body)
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        "OData-Version: 4.0",
        "Cache-Control: no-cache",
    ]
    if answer.allow:
        lines.append(f"Allow: {answer.allow}")
    if content:
        lines.append("Content-Type: application/json;charset=utf-8")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if answer.status != 204:
        lines.append(f"Content-Length: {len(content)}")
    if not keep_alive:
        lines.append("Connection: close")
    head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
    return head if head_only else head + content
