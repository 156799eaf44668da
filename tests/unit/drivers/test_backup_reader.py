"""What other tools say of their backups, and why it never proves more than their checks look at."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from evac.backup.evidence import Evidence
from evac.backup.jobs import Task, Worker
from evac.drivers.backup_reader.driver import PROVES_NOTHING, READERS, BackupReaderDriver
from evac.drivers.capabilities import READ, STRUCTURE, CopyReport, Listing, Proof
from evac.drivers.port import Action, Value
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.model.errors import Permanent
from evac.model.estate import Endpoint
from evac.store.port import MemoryStore
from tests.contract.adapters.backup_reader import snapshot


def thing(kind: str, group: str, name: str, status: dict[str, Any], **spec: Any) -> dict[str, Any]:
    about = {"name": name, "namespace": "wiki", "labels": {"velero.io/schedule-name": "nightly"}}
    return {"apiVersion": group, "kind": kind, "metadata": about, "spec": spec, "status": status}


def ended(reason: str, at: str) -> dict[str, Any]:
    return {"finished": at, "conditions": [{"type": "Completed", "status": "True", "reason": reason}]}


def velero(name: str, phase: str, **status: Any) -> dict[str, Any]:
    known = {"phase": phase, "startTimestamp": f"2026-11-2{name}T01:00:00Z", **status}
    return thing("Backup", "velero.io/v1", name, known, includedNamespaces=["wiki"])


def cloudnativepg(name: str, phase: str, **status: Any) -> dict[str, Any]:
    known = {"phase": phase, "startedAt": f"2026-11-2{name}T01:00:00Z", **status}
    return thing("Backup", "postgresql.cnpg.io/v1", name, known, cluster={"name": "orders"})


DUMPS: dict[str, Any] = {
    "velero": {
        "items": [
            velero("1", "Completed"),
            velero("2", "PartiallyFailed", errors=2),
            velero("3", "InProgress"),
            velero("4", "Completed", errors=1),
            thing("Schedule", "velero.io/v1", "nightly", {"phase": "Enabled"}),
        ]
    },
    "k8up": {
        "items": [
            thing(
                "Snapshot", "k8up.io/v1", "aa", {}, id="aa11", date="2026-11-21T01:00:00Z", paths=["/data"]
            ),
            thing("Backup", "k8up.io/v1", "b-1", ended("Succeeded", "2026-11-21T01:01:00Z")),
            thing("Backup", "k8up.io/v1", "b-2", ended("Failed", "2026-11-22T01:01:00Z")),
            thing("Backup", "k8up.io/v1", "b-3", {"started": True}),
            thing("Check", "k8up.io/v1", "c-1", ended("Succeeded", "2026-11-20T02:00:00Z")),
            thing("Backup", "velero.io/v1", "1", {"phase": "Completed"}),
        ]
    },
    "cloudnativepg": {
        "items": [
            cloudnativepg("1", "completed"),
            cloudnativepg("2", "failed", error="no space"),
            cloudnativepg("3", "running"),
            thing("ScheduledBackup", "postgresql.cnpg.io/v1", "daily", {"lastScheduleTime": "now"}),
        ]
    },
    "wal-g": [
        {
            "backup_name": "base_000000010000000000000004",
            "start_time": "2026-11-21T01:00:00.123456Z",
            "finish_time": "2026-11-21T01:03:00Z",
            "hostname": "db-1",
            "uncompressed_size": 9_000,
            "system_identifier": 7713679075457328845,
        }
    ],
    "kopia": [
        snapshot(1),
        snapshot(2, incomplete="canceled"),
        snapshot(3, stats={"errorCount": 1}),
        snapshot(4, rootEntry={"obj": "k4", "summ": {"size": 1, "files": 1, "numFailed": 2}}),
    ],
}
FOUND = {
    "velero": [("wiki/1", False), ("wiki/2", True), ("wiki/4", True)],
    "k8up": [("aa11", False), ("wiki/b-2", True)],
    "cloudnativepg": [("wiki/1", False), ("wiki/2", True)],
    "wal-g": [("base_000000010000000000000004", False)],
    "kopia": [(f"{n:032x}", n > 1) for n in (1, 2, 3, 4)],
}


def asked(folder: Path, tool: str, dump: Any = None, **more: Value) -> Action:
    file = folder / f"{tool}.json"
    file.write_text(json.dumps(DUMPS[tool] if dump is None else dump))
    return Action("verify", "wiki", "backup_reader", "ansan", {"format": tool, "file": str(file), **more})


def listed(action: Action) -> Listing:
    return asyncio.run(BackupReaderDriver().list_copies(action, 5.0))


def proven(action: Action, level: int = READ) -> Proof:
    return asyncio.run(BackupReaderDriver().prove(action, 5.0, level, 1, 1))


@pytest.mark.parametrize("tool", sorted(READERS))
def test_what_is_whole_and_what_failed(tmp_path: Path, tool: str) -> None:
    found = listed(asked(tmp_path, tool))
    assert [(one.id, one.failed) for one in found.copies] == FOUND[tool]
    assert found.copies[0].taken_at == 1_795_222_800, "2026-11-21 01:00:00 UTC"
    assert (found.tool, found.deletable) == (tool, None)


def test_the_repository_is_that_of_the_copies_listed(tmp_path: Path) -> None:
    """One dump lists snapshots of several repositories, in any order."""
    date = "2026-11-21T01:00:00Z"

    def snapshot_in(name: str, path: str, repository: str) -> dict[str, Any]:
        spec = {"id": name, "date": date, "paths": [path], "repository": repository}
        return thing("Snapshot", "k8up.io/v1", name, {}, **spec)

    rows = [snapshot_in("aa", "/a", "s3:a"), snapshot_in("bb", "/b", "s3:b"), snapshot_in("cc", "/b", "s3:b")]
    assert listed(asked(tmp_path, "k8up", {"items": rows}, source="/a")).repository == "s3:a"
    assert listed(asked(tmp_path, "k8up", {"items": rows}, source="/b")).repository == "s3:b"
    assert listed(asked(tmp_path, "k8up", {"items": rows})).repository == ""
    assert listed(asked(tmp_path, "wal-g")).repository == "7713679075457328845"


@pytest.mark.parametrize("tool", sorted(READERS))
def test_no_report_proves_that_bytes_were_read(tmp_path: Path, tool: str) -> None:
    for level in (STRUCTURE, READ):
        proof = proven(asked(tmp_path, tool), level)
        assert (proof.level, proof.bytes_read) == (STRUCTURE, 0)
        assert (proof.outcome == "passed") == (tool == "k8up"), "nothing else says that anything was checked"
        assert proof.detail.startswith(PROVES_NOTHING[tool])


def test_a_check_of_k8up_is_as_old_as_it_is(tmp_path: Path) -> None:
    action = asked(tmp_path, "k8up")
    assert proven(action).checked_at == 1_795_140_000, "2026-11-20 02:00:00 UTC"

    async def story() -> None:
        store = MemoryStore()
        evidence = Evidence(store)
        worker = Worker(store, evidence, Drivers(), SystemClock(), tmp_path / "scratch", "kim")
        end = Endpoint("copies", "wiki", "ansan", "backup_reader", action.settings)
        event = await worker.do(Task("prove", "wiki", "copies", end, 0))
        assert event.proof is not None
        assert (event.proof.level, event.proof.at_ms) == (STRUCTURE, 1_795_140_000_000)
        assert event.at_ms > event.proof.at_ms, "evac looked at it just now"

    asyncio.run(story())
    dump = {
        "items": [
            *DUMPS["k8up"]["items"],
            thing("Check", "k8up.io/v1", "c-2", ended("Failed", "2026-11-21T02:00:00Z")),
        ]
    }
    failed = proven(asked(tmp_path, "k8up", dump))
    assert (failed.outcome, failed.code) == ("could-not-run", "check-failed")


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ('{"integrity": {"status": "OK"}}', "passed"),
        ('{"integrity": {"status": "FAILURE"}}', "damaged"),
        ('{"integrity": {"status": "WARNING"}}', "could-not-run"),
        ('{"timeline": {"status": "OK"}}', "could-not-run"),
        ("OK", "could-not-run"),
    ],
)
def test_wal_verify_looks_whether_segments_exist(tmp_path: Path, said: str, outcome: str) -> None:
    proof = proven(asked(tmp_path, "wal-g", check_argv=("/bin/echo", said)))
    assert (proof.level, proof.outcome, proof.bytes_read) == (STRUCTURE, outcome, 0)


def test_a_verify_of_kopia_that_fails_is_no_damage(tmp_path: Path) -> None:
    assert proven(asked(tmp_path, "kopia", check_argv=("/bin/true",))).outcome == "passed"
    failed = proven(asked(tmp_path, "kopia", check_argv=("/bin/false",)))
    assert (failed.level, failed.outcome) == (STRUCTURE, "could-not-run")


def test_only_the_backups_of_a_source(tmp_path: Path) -> None:
    assert len(listed(asked(tmp_path, "cloudnativepg", source="orders")).copies) == 2
    assert listed(asked(tmp_path, "cloudnativepg", source="another")).copies == ()
    assert len(listed(asked(tmp_path, "kopia", source="/srv/wiki")).copies) == 4


@pytest.mark.parametrize(
    ("tool", "dump"),
    [
        ("velero", {"items": 5}),
        ("velero", {"items": [{"kind": "Backup"}]}),
        ("k8up", {"items": [thing("Check", "k8up.io/v1", "c", {"conditions": "none"})]}),
        ("cloudnativepg", {"items": [cloudnativepg("1", "completed", startedAt="yesterday")]}),
        ("wal-g", [{"backup_name": "b", "start_time": "2026-11-21T01:00:00Z"}]),
        ("kopia", [snapshot(1, stats={"errorCount": -1})]),
        ("kopia", [snapshot(1, source="wiki")]),
        ("kopia", "none"),
    ],
)
def test_what_has_another_shape_is_refused(tmp_path: Path, tool: str, dump: Any) -> None:
    with pytest.raises(Permanent) as error:
        listed(asked(tmp_path, tool, dump))
    assert error.value.code == "backup-output"


def test_a_copy_of_wal_g_is_recovered_no_earlier_than_it_ended(tmp_path: Path) -> None:
    (copy,) = listed(asked(tmp_path, "wal-g")).copies
    assert isinstance(copy, CopyReport)
    assert copy.consistent_at == copy.taken_at + 181
