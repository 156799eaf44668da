"""A store with its journals is lost, of databases that evac has moved before: adopt, and it promotes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evac.app import runs
from evac.engine.runs.signatures import new_key
from tests.contract.adapters.postgres import PASSWORD, SITES, DataSet, connect, data_set, query
from tests.contract.conftest import server_folder  # noqa: F401
from tests.e2e.test_embedded_run import PATIENCE_S, World

pytestmark = [pytest.mark.slow, pytest.mark.enable_socket, pytest.mark.servers]
POLICY = "stores: {db: {fence_proofs: [sync, attest]}}\n"
LAGS = {"primary": "0 s", "sync": "0 s", "async": "5 s"}
MODES = {"pangyo": "primary", "anyang": "sync", "ansan": "async"}


def estate(world: DataSet) -> str:
    rows: dict[str, Any] = {
        f"db-{site}": {"for": "db", "at": site, "driver": "postgres", "settings": world.settings(name)}
        for name, site in SITES.items()
    }
    members = [{"at": site, "mode": mode, "lag": LAGS[mode]} for site, mode in MODES.items()]
    members[0].pop("lag")
    told = {
        "evac": 1,
        "horizon": "1 h",
        "sites": {site: {} for site in MODES},
        "stores": {
            "db": {"engine": "postgresql", "fence": "1 s", "promote": "1 s", "rpo": "0 s", "members": members}
        },
        "endpoints": rows,
    }
    return json.dumps(told)


def planned(databases: DataSet, tmp_path: Path) -> tuple[World, Path, str, tuple[str, str]]:
    """A world with the plan for the loss of pangyo: (world, estate, plan, options that name its store)."""
    folder = tmp_path / "estate"
    folder.mkdir()
    (folder / "estate.yaml").write_text(estate(databases))
    (folder / "policy.yaml").write_text(POLICY)
    env = {**os.environ, "EVAC_WHO": "kim", "EVAC_TEST_PASSWORD": PASSWORD, "COLUMNS": "160"}
    world = World(tmp_path, env, f"sqlite:{tmp_path}/new.sqlite")
    plan, at = str(tmp_path / "p"), ("--store", world.store)
    world.evac("plan", str(folder), "--observe", "--budget", "0s", "--lose", "pangyo", "-o", plan, *at)
    return world, folder, plan, at


def test_a_lost_store_is_adopted_above_what_the_members_have_obeyed(
    server_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as databases:
        world, folder, plan, at = planned(databases, tmp_path)
        said = world.evac("apply", plan, str(folder), *at)
        assert "would work once pangyo is down" in said
        assert "pangyo answers (db); its primary accepts writes (db)" in said

        async def obeyed_before() -> None:
            for member in (databases.anyang, databases.members["dc-ansan"]):
                connection = await connect(member)
                for words in ("SET", "ALTER SYSTEM SET"):
                    await connection.execute(f"{words} evac.authority = '9 5 0'")
                await connection.execute("SELECT pg_reload_conf()")
                await connection.close()

        asyncio.run(obeyed_before())
        databases.pangyo.kill()
        words = ("--incident", "fire-9", "--confirm", "pangyo", "--reason", "the store burnt too")
        world.evac("run", "adopt", plan, str(folder), *words, *at)
        run = world.run()
        world.evac("approve", run, "--reason", "agreed", *at)
        told = world.evac("run", "attest", run, "fence:db", "--reason", "pangyo is ashes", *at, code=None)
        deadline = time.monotonic() + PATIENCE_S
        while "done" not in told:
            assert time.monotonic() < deadline, told
            told = world.evac("run", "attest", run, "fence:db", "--reason", "ashes", *at, code=None)
        while not (view := world.ask(lambda store: runs.view_of(store, run))).phase.startswith("succeeded"):
            assert time.monotonic() < deadline, (view.phase, view.failures)
            time.sleep(0.2)
        assert view.evidence[view.number("promote:db")]["epoch"] == 6
        (row,) = asyncio.run(query(databases.anyang, "SELECT pg_is_in_recovery()"))
        assert row[0] is False
        os.kill(world.controller(), 15)


def test_a_promotion_that_a_person_did_is_taken_as_done_and_never_begun_again(
    server_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as databases:
        world, folder, plan, at = planned(databases, tmp_path)
        databases.pangyo.kill()
        (row,) = asyncio.run(query(databases.anyang, "SELECT pg_promote()"))
        assert row[0] is True
        words = ("--incident", "fire-9", "--confirm", "pangyo", "--reason", "the store burnt too")
        said = world.evac("run", "adopt", plan, str(folder), *words, *at)
        assert "promote:db: the primary of db is in anyang" in said
        run = world.run()
        world.evac("approve", run, "--reason", "agreed", *at, code=None)
        deadline = time.monotonic() + PATIENCE_S
        while not (view := world.ask(lambda store: runs.view_of(store, run))).phase.startswith("succeeded"):
            assert time.monotonic() < deadline, (view.phase, view.failures)
            time.sleep(0.2)
        assert not any(step.kind in ("fence", "promote") for step in view.steps)
        assert view.phase == "succeeded_with_exceptions"
        assert [(one.name, one.state) for one in view.left] == [("db", "unprotected")], "it may lose nothing"
        status = world.evac("status", str(folder), *at, code=None)
        assert "pangyo is lost" in status
        assert "db has its primary in anyang" in status
        os.kill(world.controller(), 15)


def test_what_is_seen_to_be_done_is_attested_with_a_key_of_an_approver_or_not_at_all(tmp_path: Path) -> None:
    folder, keys = tmp_path / "estate", {name: tmp_path / f"{name}.key" for name in ("kim", "eve")}
    folder.mkdir()
    units = {
        f"{site}-units": {"site": site, "cpu": "8 cores", "memory": "8 GiB"} for site in ("pangyo", "anyang")
    }
    program = {
        "argv": ["/bin/true"],
        "does": ["start", "scale", "stop"],
        "observe_argv": ["/usr/bin/test", "-e", str(tmp_path / "web")],
    }
    web = {
        "tier": 0,
        "people": 10,
        "demand": {"cpu": "1 cores"},
        "replicas": {"pangyo-units": 1},
        "start": "1 s",
    }
    told = {
        "evac": 1,
        "horizon": "1 h",
        "sites": {"pangyo": {}, "anyang": {}},
        "pools": units,
        "services": {"web": web},
        "endpoints": {"web-anyang": {"for": "web", "at": "anyang", "driver": "command", "settings": program}},
    }
    (folder / "estate.yaml").write_text(json.dumps(told))
    people = {name: new_key(path) for name, path in keys.items()}
    (folder / "policy.yaml").write_text(f"approvers: {{kim: '{people['kim']}'}}\n")
    env = {**os.environ, "EVAC_WHO": "the-user-of-this-machine", "COLUMNS": "160"}
    plan = str(tmp_path / "p")
    World(tmp_path, env).evac("plan", str(folder), "--budget", "0s", "--lose", "pangyo", "-o", plan)
    (tmp_path / "web").write_text("a run whose journal is lost started it")
    adopt = [
        "run",
        "adopt",
        plan,
        str(folder),
        "--confirm",
        "pangyo",
        "--reason",
        "the store burnt",
        "--who",
        "kim",
    ]
    for name, key, refused in (
        ("typed", (), "adopt-not-taken"),
        ("eve", ("--key", str(keys["eve"])), "signature-invalid"),
    ):
        world = World(tmp_path, env, f"sqlite:{tmp_path}/{name}.sqlite")
        said = world.evac(*adopt, "--incident", name, *key, "--store", world.store, code=4)
        assert f"[{refused}]" in said, said
        if made := world.run():
            assert f"evac run cancel {made}" in said
            view = world.ask(partial(runs.view_of, run=made))
            assert "succeeded" not in view.phases, "nobody proved who says that it is done"
        os.kill(world.controller(), 15)
    world = World(tmp_path, env, f"sqlite:{tmp_path}/kim.sqlite")
    signed = ("--key", str(keys["kim"]), "--store", world.store)
    assert "start:web:base:1" in world.evac(*adopt, "--incident", "fire-9", *signed)
    run = world.run()
    view = world.until(run, "succeeded", "start:web:base:1")
    evidence = view.evidence[view.number("start:web:base:1")]
    assert (evidence["attested_by"], evidence["adopted"]) == ("kim", True)
    assert evidence["proven_by"] == "signature"
    os.kill(world.controller(), 15)
