"""DMTF's mockup of a rack server as the measure of ours: the same resources, names and kinds of values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lab.fleet.fleets import Client

pytestmark = pytest.mark.data

# Ours -> the mockup's path of the same kind of resource.
SAME = {
    "": "",
    "Systems": "Systems",
    "Systems/1": "Systems/437XR1138R2",
    "Chassis": "Chassis",
    "Chassis/1": "Chassis/1U",
    "Chassis/1/Power": "Chassis/1U/Power",
    "Managers/1": "Managers/BMC",
    "SessionService": "SessionService",
}
# In the schemas, and not in this mockup.
MORE = {
    "": {"Vendor", "Product"},
    "Systems/1": {"Storage"},
}


def _mockup(shared_data: Path, path: str) -> dict[str, Any]:
    top = shared_data / "redfish" / "public-rackmount1"
    if not top.is_dir():
        pytest.skip("DMTF's mockup is not on this machine: ../shared/data/redfish")
    found: dict[str, Any] = json.loads((top / path / "index.json").read_text(encoding="utf-8"))
    return found


def _differs(ours: object, theirs: object, at: str) -> list[str]:
    """Where a value has another kind; null says nothing, and a list is measured by its first element."""
    if ours is None or theirs is None:
        return []
    kinds = [
        float if isinstance(one, int | float) and not isinstance(one, bool) else type(one)
        for one in (ours, theirs)
    ]
    if kinds[0] is not kinds[1]:
        return [f"{at}: {kinds[0].__name__} instead of {kinds[1].__name__}"]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            one
            for key in ours.keys() & theirs.keys()
            for one in _differs(ours[key], theirs[key], f"{at}/{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and ours and theirs:
        return _differs(ours[0], theirs[0], f"{at}[0]")
    return []


@pytest.mark.parametrize("path", SAME)
def test_a_resource_has_the_names_and_kinds_of_the_mockup(shared_data: Path, path: str) -> None:
    theirs = _mockup(shared_data, SAME[path])
    client = Client()
    client.reset("On")
    client.hand.seconds = 3_600.0
    ours = client.get(f"/redfish/v1/{path}")
    assert set(ours) - set(theirs) <= MORE.get(path, set())
    assert _differs(ours, theirs, path) == []
    kinds = [str(found["@odata.type"]).split(".")[0] for found in (ours, theirs)]
    assert kinds[0] == kinds[1]
