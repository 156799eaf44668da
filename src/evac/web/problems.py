"""Errors as RFC 9457 problems: a stable `code`, a sentence, and a `hint` that says what to do next.

Foreign exceptions never reach the client: they are logged with the request id and reported as `internal`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from evac.model import errors as e
from evac.model.errors import kind_of
from evac.office.values import TooManyViewers
from evac.web.access.port import TooMany, Unauthenticated

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Scope

MEDIA: Final = "application/problem+json"
REQUEST_ID: Final = "evac_request"
_LOG: Final = logging.getLogger("evac.web")

_BY_CODE: Final[Mapping[str, int]] = {
    "run-unknown": 404,
    "plan-unknown": 404,
    "unknown-domain": 404,
    "no-facts": 404,
    "no-hold": 404,
    "not-found": 404,
    "cursor-unknown": 404,
    "incident-unknown": 404,
    "idempotency-reused": 409,
    "no-systems": 409,
    "not-confirmed": 409,
    "plan-mismatch": 409,
    "plan-name": 409,
    "changed-meanwhile": 412,
    "run-over": 409,
    "request-refused": 409,
    "body-too-large": 413,
    "host-unknown": 421,
    "cross-site": 403,
    "media-type": 415,
    "header-too-large": 431,
    "host-twice": 400,
    "oidc-down": 503,
}
_BY_TYPE: Final[tuple[tuple[type[e.EvacError], int], ...]] = (
    (Unauthenticated, 401),
    (TooMany, 429),
    (e.NotAllowed, 403),
    (e.UnknownDomain, 404),
    (TooManyViewers, 503),
    (e.Conflict, 409),
    (e.LockHeld, 409),
    (e.Unavailable, 503),
    (e.Corrupt, 500),
    (e.StalePlan, 409),
    (e.StoreError, 503),
    (e.EvacError, 422),
)
RETRY_AFTER_S: Final = "5"
HINTS_FOR_PROGRAMS: Final = frozenset(
    {
        "incident-unknown",
        "method",
        "not-found",
        "plan-unknown",
        "request-invalid",
        "run-over",
        "run-unknown",
        "what-if-domains",
    }
)
"""Codes of problems whose hint names a route of the API."""
_UNREADABLE: Final = "the body cannot be read: it is nested too deeply, or not UTF-8"
_SEND_JSON: Final = "send a JSON object with content-type: application/json"


def status_of(error: e.EvacError) -> int:
    """The HTTP status of an error: by its code if that is more specific, else by its type."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    return next(status for kind, status in _BY_TYPE if isinstance(error, kind))


def problem(
    status: int,
    code: str,
    detail: str,
    hint: str = "",
    request: str = "",
    more: Mapping[str, Any] | None = None,
    kind: str = "error",
) -> Response:
    """One problem document."""
    told = {
        "type": f"urn:evac:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "kind": kind,
        "detail": detail,
        "hint": hint,
        "request": request,
        **(more or {}),
    }
    headers = {"cache-control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = RETRY_AFTER_S
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return Response(orjson.dumps(told), status, headers, MEDIA)


def problem_of(error: e.EvacError, request: str) -> Response:
    more = {"route": "known"}
    found = problem(status_of(error), error.code, error.message, error.hint, request, more, kind_of(error))
    if isinstance(error, TooMany):
        found.headers["retry-after"] = str(error.wait_s)
    return found


def add_handlers(app: FastAPI, shown: Callable[[Request, Mapping[str, Any]], Awaitable[bytes]]) -> None:
    """Turns every failure of a request into a problem. `shown`: renders it as a page, for browsers; programs
    get the document.
    """

    async def told(request: Request, found: Response) -> Response:
        if request.url.path.startswith("/v1") or "text/html" not in request.headers.get("accept", ""):
            return found
        body = await shown(request, orjson.loads(found.body))
        page = Response(body, found.status_code, media_type="text/html")
        kept = (h for h in found.headers.items() if h[0] not in ("content-type", "content-length"))
        page.headers.update(dict(kept))
        return page

    async def evac_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, e.EvacError)
        return await told(request, problem_of(error, _id(request)))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fields = [_field(one) for one in error.errors()[:20]]
        words = "; ".join(f"{one['at']}: {one['words']}" for one in fields[:3])
        hint = "see /v1/openapi.json for the format"
        more = {"fields": fields}
        found = problem(422, "request-invalid", words, hint, _id(request), more, "invalid-input")
        return await told(request, found)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, e.EvacError):  # a bound that was met while the body was read
            return await told(request, problem_of(error.__cause__, _id(request)))
        code = {404: "not-found", 405: "method", 400: "request-invalid"}.get(error.status_code, "http")
        hint = "see /v1/openapi.json for the routes" if error.status_code in (404, 405) else ""
        detail, kind = str(error.detail), "error"
        if code == "request-invalid":  # the body cannot be read at all
            detail, hint, kind = _UNREADABLE, _SEND_JSON, "invalid-input"
        found = problem(error.status_code, code, detail, hint, _id(request), kind=kind)
        found.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            found.headers["allow"] = ", ".join(_methods(request)) or found.headers.get("allow", "")
        return await told(request, found)

    app.state.told = told
    app.add_exception_handler(e.EvacError, evac_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)


def _field(one: Mapping[str, Any]) -> dict[str, str]:
    """Where a request is invalid, and why, as text."""
    at, words = ".".join(str(part) for part in one["loc"]), str(one["msg"])
    if one["type"] == "json_invalid":
        why = one.get("ctx", {}).get("error", "")
        at, words = "body", f"invalid JSON at character {one['loc'][-1]}: {why}"
    elif one["loc"] == ("body",) and one["type"] != "missing":
        words = f"not a JSON object; {_SEND_JSON}"
    return {"at": at[:200], "words": words[:200]}


def _methods(request: Request) -> list[str]:
    """All methods of a path: several routes may share one."""
    for path, methods in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", path), request.url.path):
            return sorted(method.upper() for method in methods)
    return []


async def internal(scope: Scope, error: BaseException) -> Response:
    """An unforeseen error: the log has the details, the response has the id to find them."""
    request = _id(Request(scope))
    _LOG.error("request %s failed", request, exc_info=error)
    hint = f"the log of this process has the cause under {request}"
    found = problem(500, "internal", "internal error", hint, request)
    with suppress(Exception):  # the page may need what failed
        return cast("Response", await scope["app"].state.told(Request(scope), found))
    return found


def _id(request: Request) -> str:
    return str(request.scope.get(REQUEST_ID, ""))
