"""Which member the agent of its site rejoins, and how long that may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac import estate as estates
from evac.engine.runs.protection import rejoin_ms
from evac.engine.runs.step_actions import rejoin_action
from tests.unit.engine.messenger import DATABASES, ESTATE, TRAFFIC


@pytest.mark.parametrize(
    ("settings", "with_agent", "driver", "how", "deadline_ms"),
    [
        (", archive: /kept, bin: /usr/bin", True, "mariadb@pangyo", None, 3_600_000),
        (", archive: /kept, bin: /usr/bin", False, "mariadb", "follow", 60_000),
        ("", True, "mariadb", "follow", 60_000),
    ],
)
def test_an_agent_rejoins_a_mariadb_that_has_an_archive(
    tmp_path: Path, settings: str, with_agent: bool, driver: str, how: str | None, deadline_ms: int
) -> None:
    """A rebuild may take an hour; a copy that is only repointed does not need the agent."""
    databases = DATABASES.replace("driver: postgres", "driver: mariadb")
    databases = databases.replace("name: dc-pangyo", f"name: dc-pangyo{settings}")
    text = ESTATE.replace("engine: postgresql", "engine: mariadb") + databases
    (tmp_path / "estate.yaml").write_text(text + (TRAFFIC if with_agent else ""), encoding="utf-8")
    found = estates.load(tmp_path)
    by_id = {one.id: one for one in found.endpoints}
    old, new = by_id["messages-pangyo"], by_id["messages-anyang"]
    action = rejoin_action(found, old, new)
    assert (action.verb, action.driver, action.at) == ("rejoin", driver, "pangyo")
    assert action.parameters["primary_host"] == "127.0.0.2"
    assert (action.parameters.get("how"), rejoin_ms((action,))) == (how, deadline_ms)
