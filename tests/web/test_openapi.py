"""The OpenAPI document against the room, by schemathesis: every answer has the shape that it promises."""

from __future__ import annotations

import asyncio

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from tests.web.rooms import office_of, primed, room_of

OFFICE = asyncio.run(primed(office_of()))
SCHEMA = schemathesis.openapi.from_asgi("/v1/openapi.json", room_of(OFFICE, hosts=()))


@pytest.fixture(scope="module", autouse=True)
def closed() -> object:
    yield None
    asyncio.run(OFFICE.close())


@SCHEMA.exclude(path_regex="stream$").parametrize()
@settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
def test_answers_are_as_promised(case: schemathesis.Case) -> None:
    case.call_and_validate()
