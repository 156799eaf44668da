"""Answers of a Redfish service: status, headers, JSON, and errors with the messages of the Base registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson

REGISTRY: Final = "Base.1.18"
SCHEMAS: Final = "http://redfish.dmtf.org/schemas/v1"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. headers: lower-case names; user: filled in by whoever knows him."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True)
class Answer:
    """status, JSON or bytes, and headers beside those of every answer. etag, link: "" where there is none."""

    status: int = 200
    body: Json | bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    media: str = "application/json"
    allow: str = "GET, HEAD"
    etag: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the Base registry. words: `%1` stands for the first argument."""

    words: str
    severity: str
    resolution: str
    arguments: int = 0


MESSAGES: Final = MappingProxyType(
    {
        "Success": Message("The request completed successfully.", "OK", "None."),
        "GeneralError": Message(
            "A general error has occurred.", "Critical", "Look at the service, then try again."
        ),
        "MalformedJSON": Message("The body is no JSON.", "Critical", "Mend the body and send it again."),
        "ResourceMissingAtURI": Message(
            "There is no resource at %1.", "Critical", "Ask for one that exists.", 1
        ),
        "OperationNotAllowed": Message(
            "The method is not allowed here.", "Critical", "Use one that Allow names."
        ),
        "ActionNotSupported": Message(
            "The action %1 is not supported.", "Critical", "Use another action.", 1
        ),
        "ActionParameterMissing": Message("The action %1 needs %2.", "Critical", "Send the parameter.", 2),
        "ActionParameterNotSupported": Message("%1 is no parameter of %2.", "Warning", "Leave it out.", 2),
        "ActionParameterValueNotInList": Message(
            "%1 is no value of %2 of %3.", "Warning", "Use an allowed value.", 3
        ),
        "PropertyMissing": Message("The property %1 is missing.", "Warning", "Send the property.", 1),
        "PropertyUnknown": Message("%1 is no property of the resource.", "Warning", "Leave it out.", 1),
        "PropertyNotWritable": Message("The property %1 cannot be written.", "Warning", "Leave it out.", 1),
        "PropertyValueNotInList": Message("%1 is no value of %2.", "Warning", "Use a value of the list.", 2),
        "PropertyValueTypeError": Message(
            "%1 has the wrong type for %2.", "Warning", "Use the right type.", 2
        ),
        "PropertyValueFormatError": Message(
            "%1 has the wrong form for %2.", "Warning", "Use the right form.", 2
        ),
        "NoOperation": Message("The request asked for nothing.", "Warning", "Ask for something."),
        "InsufficientPrivilege": Message("The user may not do this.", "Critical", "Use another account."),
        "NoValidSession": Message("There is no valid session.", "Critical", "Log in first."),
        "ResourceAtUriUnauthorized": Message(
            "%1 cannot be reached: %2", "Critical", "Give the right credentials.", 2
        ),
        "PasswordChangeRequired": Message(
            "The password must be changed first: PATCH %1.", "Critical", "Change it.", 1
        ),
        "SessionLimitExceeded": Message(
            "The maximum number of user sessions is reached.",
            "Critical",
            "Close a session, or wait for its end.",
        ),
        "CreateLimitReachedForResource": Message("No more can be created.", "Critical", "Delete one first."),
        "PreconditionFailed": Message(
            "The resource has changed since it was read.", "Critical", "Read it again."
        ),
        "PreconditionRequired": Message("If-Match is needed.", "Critical", "Send the ETag of the resource."),
        "QueryNotSupportedOnResource": Message(
            "The resource knows no such query.", "Warning", "Leave it out."
        ),
        "QueryParameterValueTypeError": Message(
            "%1 has the wrong type for %2.", "Warning", "Use the right type.", 2
        ),
        "QueryParameterOutOfRange": Message(
            "%1 is out of range for %2: %3.", "Warning", "Use a value within.", 3
        ),
        "HeaderInvalid": Message("The header %1 is not valid.", "Critical", "Mend the header.", 1),
        "InternalError": Message(
            "The service has met an error of its own.", "Critical", "Reset the service."
        ),
        "ServiceTemporarilyUnavailable": Message(
            "Not available now; try again in %1 seconds.", "Critical", "Wait.", 1
        ),
        "ResourceInUse": Message("The resource is in use.", "Warning", "Try again later."),
    }
)
"""Words of our own for the keys of the registry."""


def information(key: str, *arguments: str, about: str = "") -> Json:
    """One entry of @Message.ExtendedInfo."""
    message = MESSAGES[key]
    words = message.words
    for place, argument in enumerate(arguments, 1):
        words = words.replace(f"%{place}", argument)
    found: Json = {
        "@odata.type": "#Message.v1_1_2.Message",
        "MessageId": f"{REGISTRY}.{key}",
        "Message": words,
        "MessageArgs": list(arguments),
        "MessageSeverity": message.severity,
        "Resolution": message.resolution,
    }
    return {**found, "RelatedProperties": [f"#/{about}"]} if about else found


def refused(
    status: int,
    key: str,
    *arguments: str,
    allow: str = "GET, HEAD",
    about: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """An error as Redfish says it."""
    return refusals(status, [information(key, *arguments, about=about)], allow, headers)


def refusals(
    status: int, entries: list[Json], allow: str = "GET, HEAD", headers: tuple[tuple[str, str], ...] = ()
) -> Answer:
    first = entries[0]
    error = {"code": first["MessageId"], "message": first["Message"], "@Message.ExtendedInfo": entries}
    return Answer(status, {"error": error}, headers, allow=allow)


_REASONS: Final = MappingProxyType(
    {
        200: "OK",
        201: "Created",
        202: "Accepted",
        204: "No Content",
        304: "Not Modified",
        400: "Bad Request",
        401: "Unauthorized",
        403: "Forbidden",
        404: "Not Found",
        405: "Method Not Allowed",
        406: "Not Acceptable",
        409: "Conflict",
        412: "Precondition Failed",
        413: "Content Too Large",
        415: "Unsupported Media Type",
        428: "Precondition Required",
        431: "Request Header Fields Too Large",
        500: "Internal Server Error",
        501: "Not Implemented",
        503: "Service Unavailable",
        505: "HTTP Version Not Supported",
    }
)


def encode(answer: Answer, head_only: bool, keep_alive: bool) -> bytes:
    """The bytes of an answer."""
    body = answer.body
    content = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Other')}",
        "OData-Version: 4.0",
        "Cache-Control: no-cache",
        f"Allow: {answer.allow}",
    ]
    if content:
        text = answer.media.startswith(("application/json", "application/yaml"))
        lines.append(f"Content-Type: {answer.media}{';charset=utf-8' if text else ''}")
    if link := answer.link or (described_by(body) if isinstance(body, dict) else ""):
        lines.append(f"Link: {link}")
    if answer.etag:
        lines.append(f"ETag: {answer.etag}")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if answer.status != 204:
        lines.append(f"Content-Length: {len(content)}")
    if not keep_alive:
        lines.append("Connection: close")
    head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
    return head if head_only else head + content


def described_by(body: Json) -> str:
    """The Link that names the schema of a resource, in its version."""
    kind = body.get("@odata.type")
    if not isinstance(kind, str):
        return ""
    name = kind[1:].rpartition(".")[0]
    return f"<{SCHEMAS}/{name}.json>; rel=describedby"
