"""Why no replica confirms commits, as a real primary shows it: in `evac observe` and `evac doctor`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from evac.cli import console
from evac.cli.main import run
from tests.contract.adapters.mariadb import data_set

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
SHORT = "rpl_semi_sync_master_timeout is 10000 ms: after that, commits do not wait for a copy"


def estate_of(folder: Path, world: Any) -> str:
    ends = "".join(
        f"  o-{site}: {{for: orders, at: {site}, driver: mariadb, "
        f"settings: {json.dumps(world.settings(name))}}}\n"
        for name, site in (("dc-pangyo", "pangyo"), ("dc-anyang", "anyang"))
    )
    (folder / "estate.yaml").write_text(
        "evac: 1\nsites: {pangyo: {}, anyang: {}}\nservices: {}\nstores:\n"
        "  orders: {engine: mariadb, rpo: 0 s, members: "
        f"[{{at: pangyo, mode: primary}}, {{at: anyang, mode: sync}}]}}\nendpoints:\n{ends}"
    )
    (folder / "policy.yaml").write_text("stores: {orders: {fence_proofs: [sync, attest]}}\n")
    return str(folder)


def test_a_wait_with_an_end_is_named_by_observe_and_doctor(
    server_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with data_set(server_folder) as world:
        estate = estate_of(server_folder, world)
        policy = str(server_folder / "policy.yaml")
        run(["observe", estate, "--output", "json"])
        assert json.loads(capsys.readouterr().out)["unconfirmed"] == {}
        run(["doctor", estate, "--policy", policy])
        assert "fence pangyo" not in capsys.readouterr().out, "its copy confirms every commit"

        world.pangyo.sql("SET GLOBAL rpl_semi_sync_master_timeout = 10000")
        assert run(["observe", estate, "--output", "json"]) == console.DONE
        assert json.loads(capsys.readouterr().out)["unconfirmed"] == {"orders": [SHORT]}
        run(["observe", estate])
        assert f"orders: no replica confirms its commits: {SHORT}" in " ".join(
            capsys.readouterr().out.split()
        )
        run(["doctor", estate, "--policy", policy])
        said = " ".join(capsys.readouterr().out.split())
        assert f"no replica is currently proven to hold every commit ({SHORT})" in said


def test_a_copy_that_is_set_not_to_confirm_is_named(
    server_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with data_set(server_folder) as world:
        estate = estate_of(server_folder, world)
        world.anyang.sql("SET GLOBAL rpl_semi_sync_slave_enabled = OFF", "STOP SLAVE", "START SLAVE")
        said, end = "", time.monotonic() + 30.0
        why = "dc-anyang does not confirm: rpl_semi_sync_slave_enabled is OFF there"
        while f"orders: commits wait for dc-anyang: {why}" not in said:
            assert time.monotonic() < end, said
            run(["observe", estate])
            said = " ".join(capsys.readouterr().out.split())
        run(["observe", estate, "--output", "json"])
        found = json.loads(capsys.readouterr().out)
        assert found["waiting"] == {"orders": {"for": ["dc-anyang"], "why": [why]}}
        assert found["unconfirmed"] == {}
