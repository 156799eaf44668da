"""The OpenAPI document against the room, by schemathesis: every answer has the shape that it promises.

All operations are one test, each a subtest of it: schemathesis thinks long about the cases of each, and would
do so in every process that collects tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema

from evac.office import office as offices
from tests.conftest import PROJECT_ROOT as ROOT
from tests.web.rooms import office_of, primed, room_of

# Otherwise it chooses a seed by itself, whatever hypothesis is told.
SEEDED = SchemathesisConfig(seed=20221015)


@pytest.fixture(scope="module")
def document() -> Iterator[BaseSchema]:
    """Nobody looks at the store of this room again, which a real one would say of itself after a while."""
    office = asyncio.run(primed(office_of()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offices, "SILENT_MS", 3_600_000)
        yield schemathesis.openapi.from_asgi("/v1/openapi.json", room_of(office, hosts=()), config=SEEDED)
    asyncio.run(office.close())


@pytest.fixture(autouse=True)
def named(request: pytest.FixtureRequest) -> None:
    """Schemathesis reads and writes the name of a test where pytest kept it before 9.2."""
    request.node._nodeid = request.node.nodeid


def test_every_limit_is_one_that_the_format_knows() -> None:
    """A client that keeps to the document is never refused: pydantic writes a limit that stands behind a
    validator as `ge`, which means nothing in JSON Schema.
    """
    told = orjson.loads((ROOT / "docs" / "reference" / "openapi.json").read_bytes())
    shapes = list(told["components"]["schemas"].values())
    for one in shapes:
        shapes += [field for field in one.get("properties", {}).values() if isinstance(field, dict)]
    assert len(shapes) > 500
    assert [one for one in shapes if {"ge", "gt", "le", "lt", "min_length", "max_length"} & set(one)] == []


def test_no_description_is_only_a_name() -> None:
    told = orjson.loads((ROOT / "docs" / "reference" / "openapi.json").read_bytes())
    shapes = told["components"]["schemas"].values()
    assert [one for one in shapes if one.get("description") in (one.get("title"), "")] == []


DOCUMENT = schemathesis.pytest.from_fixture("document").exclude(path_regex="stream$")


@DOCUMENT.parametrize()
@settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
def test_answers_are_as_promised(case: schemathesis.Case) -> None:
    case.call_and_validate()
