"""`evac backup` on real servers, as a user types it: do, undo, do again; nothing there is overwritten."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evac.cli import console
from evac.cli.main import run
from evac.drivers.capabilities import Taken
from evac.drivers.port import Action, Value
from evac.drivers.restic.driver import ResticDriver
from tests.contract.adapters import pgbackrest
from tests.contract.adapters.copy_folder import Source, world
from tests.contract.adapters.etcd_snapshot import EtcdSource
from tests.contract.adapters.mariabackup import MariadbSource
from tests.contract.adapters.pg_basebackup import PostgresSource
from tests.contract.adapters.redis_rdb import RedisSource
from tests.contract.adapters.restic import copies, restic

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
STORE = "store-messages"


class Typed:
    """An estate with one data set and its backups, the second copied from the first, and what evac says."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._capsys = folder, capsys
        monkeypatch.setenv("EVAC_STORE", f"sqlite:{folder / 'store.sqlite'}")
        monkeypatch.setenv("EVAC_RESTORE_TESTS", str(folder / "tests"))

    def declare(self, one: Action, two: Action, copied: bool = True, **policy: object) -> None:
        origin = {"copied_from": "one"} if copied else {}
        (self.folder / "estate.yaml").write_text(
            yaml.safe_dump(
                {
                    "evac": 1,
                    "name": "typed",
                    "sites": {"anyang": {}, "sejong": {}},
                    "data_sets": {
                        STORE: {
                            "kind": "volume",
                            "at": "anyang",
                            "backups": [
                                {"at": "anyang", "endpoint": "one", "system": "disk"},
                                {"at": "sejong", "endpoint": "two", "system": "nfs", **origin},
                            ],
                            "backup_policy": {"level": 4, **policy},
                        }
                    },
                    "endpoints": {"one": _endpoint("anyang", one), "two": _endpoint("sejong", two)},
                }
            )
        )

    def say(self, command: str, *more: str) -> tuple[int, list[Mapping[str, Any]]]:
        """The exit code, and the events."""
        argv = ["backup", command, str(self.folder / "estate.yaml"), STORE, "--output", "json", "-q", *more]
        code = run(argv)
        out = self._capsys.readouterr().out
        return code, json.loads(out)["events"] if out else []

    def alarms(self) -> set[str]:
        """What the audit says of sudden changes."""
        assert run(["audit", str(self.folder / "estate.yaml"), "--output", "json", "--fail-on", "never"]) == 0
        found = json.loads(self._capsys.readouterr().out)["findings"]
        return {one["subject"].rpartition(", ")[2] for one in found if one["code"] == "EV149"}

    def left(self) -> list[Path]:
        return sorted((self.folder / "tests").rglob("*"))


def _endpoint(at: str, action: Action) -> dict[str, object]:
    settings = {key: list(one) if isinstance(one, tuple) else one for key, one in action.settings.items()}
    return {"for": STORE, "at": at, "driver": action.driver, "settings": settings}


@pytest.fixture
def typed(server_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(server_folder, monkeypatch, capsys)


@pytest.mark.parametrize("kind", [RedisSource, EtcdSource, MariadbSource, PostgresSource])
def test_a_store_is_backed_up_proven_and_restored_by_hand(kind: type[Source], typed: Typed) -> None:
    with world(typed.folder, kind) as made:
        typed.declare(made.action(), made.action("two"))
        for _ in range(2):
            code, events = typed.say("run")
            assert (code, [one["outcome"] for one in events]) == (console.DONE, ["done", "done"])
        code, events = typed.say("prove")
        assert (code, {one["outcome"] for one in events}) == (console.DONE, {"passed"})
        assert all(one["bytes_read"] > 0 for one in events)
        code, events = typed.say("restore-test")
        found = [(one["outcome"], one["level"]) for one in events]
        assert (code, found) == (console.DONE, [("passed", 4)] * 2), events
        assert typed.left() == []
        code, (event,) = typed.say("restore", "--into", str(made.place))
        assert (code, event["kind"], event["outcome"]) == (console.DONE, "restored", "done")
        assert "it matches what was recorded when the backup was taken" in event["detail"]
        assert re.search(r", as of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC;", event["detail"]), event
        assert not (made.place / kind.pid_file).exists(), "nothing is started"
        before = sorted((path, path.stat().st_mtime_ns) for path in made.place.rglob("*"))
        code, (event,) = typed.say("restore", "--into", str(made.place))
        assert (code, event["code"]) == (console.FAILED, "place-not-empty")
        assert sorted((path, path.stat().st_mtime_ns) for path in made.place.rglob("*")) == before
        shutil.rmtree(made.place)
        oldest = made.copies[0].name
        code, (event,) = typed.say("restore", "--into", str(made.place), "--copy", "one", "--backup", oldest)
        assert (code, event["snapshot"]) == (console.DONE, oldest)
        shutil.rmtree(made.place)
        code, (event,) = typed.say("restore", "--into", str(made.place), "--backup", "20")
        assert (code, event["code"]) == (console.FAILED, "copy-unknown")
        assert not made.place.exists()


@pytest.mark.parametrize("kind", [RedisSource, EtcdSource, MariadbSource])
def test_what_is_wrong_with_a_repository_is_named(kind: type[Source], typed: Typed) -> None:
    with world(typed.folder, kind) as made:
        typed.declare(made.action(repository_id="of-another-company"), made.action("two"))
        for command in ("run", "prove", "restore-test", "list"):
            code, events = typed.say(command, "--copy", "one")
            assert (code, {one["code"] for one in events}) == (console.FAILED, {"backup-other-repository"})
        typed.declare(made.action(), made.action("two"))
        largest = kind.spoiled(made.source, made.copies[0] / "content")
        body = bytearray(largest.read_bytes())
        body[len(body) // 2] ^= 1
        largest.write_bytes(body)
        assert typed.say("list")[0] == console.DONE
        code, (event,) = typed.say("prove", "--copy", "one")
        assert (code, event["outcome"], event["code"]) == (console.FINDINGS, "damaged", "backup-corrupt")
        code, (event,) = typed.say("restore", "--into", str(made.place), "--copy", "one")
        assert (code, event["outcome"]) == (console.FINDINGS, "damaged")
        assert not made.place.exists(), "nothing half-restored is left"
        assert run(["backup", "restore", str(typed.folder / "estate.yaml"), STORE, "--into", "/x/y"]) == (
            console.FAILED
        ), "one is damaged and the other is empty: nothing is chosen"


SERVES = """
import functools, http.server, os, threading, urllib.request
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.environ["EVAC_PLACE"])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/runbook"
print(urllib.request.urlopen(url).read().decode())
"""
"""Serves restored files with a web server of its own, and fetches a page from it."""


def test_a_web_server_answers_from_a_restored_copy(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    program = typed.folder / "ask.py"
    program.write_text(SERVES)
    estate = typed.folder / "estate.yaml"

    def asks(answer: str) -> None:
        typed.declare(made.action(), made.action("two"), level=5, request="asked")
        found = yaml.safe_load(estate.read_text())
        settings = {"argv": [sys.executable, "-SE", str(program)], "answer": answer}
        end = {"for": STORE, "at": "anyang", "driver": "backup_request", "settings": settings}
        found["endpoints"]["asked"] = end
        estate.write_text(yaml.safe_dump(found))

    with copies(typed.folder) as made:
        (made.data / "runbook").write_text("Restart the pager first.\n")
        asks("Restart the pager")
        assert typed.say("run")[0] == console.DONE
        code, events = typed.say("restore-test")
        assert (code, {(one["outcome"], one["level"]) for one in events}) == (console.DONE, {("passed", 5)})
        assert run(["backup", "status", str(estate), STORE]) == console.DONE
        shown = capsys.readouterr().out
        assert "served just now" in shown
        assert "Restart the pager first. (asked)" in shown
        asks("Call the plumber")
        code, events = typed.say("restore-test", "--copy", "one")
        assert (code, events[0]["outcome"], events[0]["code"]) == (
            console.FINDINGS,
            "answer-differs",
            "answer-differs",
        )
        assert "Restart the pager first." in events[0]["detail"]
        (made.data / "runbook").unlink()
        assert typed.say("run")[0] == console.DONE
        code, events = typed.say("restore-test", "--copy", "one")
        assert (code, events[0]["code"]) == (console.FAILED, "request-failed")
        assert "404" in events[0]["detail"]
        assert typed.left() == []


def test_an_attack_on_the_data_or_its_backups_is_an_alert(typed: Typed) -> None:
    """Of encrypted data restic takes good backups: all of it is new, and nothing of it shrinks."""
    log = typed.folder / "access.log"
    with copies(typed.folder, "--append-only", "--log", str(log)) as made:
        shutil.rmtree(made.data)
        made.data.mkdir()
        ledgers = [made.data / f"ledger-{month}" for month in range(40)]
        for month, path in enumerate(ledgers):
            path.write_text("\n".join(f"payment {month}/{number} was settled" for number in range(2_000)))
        typed.declare(made.action("two", access_log=str(log)), made.action(), copied=False)
        for day in range(3):
            with ledgers[-1].open("a") as file:
                file.write(f"day {day}\n")
            assert typed.say("run", "--copy", "one")[0] == console.DONE
        assert typed.alarms() == set(), "what grows by a line a day is usual"
        restic("forget", "--keep-last", "1", repository=f"rest:http://127.0.0.1:{made.port}/two/")
        typed.say("list", "--copy", "one")
        assert typed.alarms() == {"deletion-refused"}
        for path in ledgers:
            path.write_bytes(os.urandom(path.stat().st_size))
        assert typed.say("run", "--copy", "one")[0] == console.DONE
        assert typed.alarms() == {"deletion-refused", "backup-rewritten", "backup-incompressible"}
        typed.say("list", "--copy", "one")
        assert typed.alarms() == {"deletion-refused", "backup-rewritten", "backup-incompressible"}
        for snapshot in sorted((typed.folder / "served" / "two" / "snapshots").iterdir())[:3]:
            snapshot.unlink()
        typed.say("list", "--copy", "one")
        assert typed.alarms() & {"backups-gone", "newest-backup-gone"}, "past the server, on its own disk"


def test_a_listing_that_fails_after_a_backup_is_reported(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server goes away once the backup of encrypted data is taken, so no one sees the change."""
    with copies(typed.folder) as made:
        for path in (made.data / "inner").iterdir():
            path.write_text("\n".join(f"{path.name}/{number} was settled" for number in range(9_000)))
        typed.declare(made.action("two"), made.action(), copied=False)
        for day in range(3):
            (made.data / "day").write_text(f"day {day}\n")
            assert typed.say("run", "--copy", "one")[0] == console.DONE
        for path in (made.data / "inner").iterdir():
            path.write_bytes(os.urandom(path.stat().st_size))
        take = ResticDriver.take

        async def then_gone(self: ResticDriver, action: Action, timeout_s: float) -> Taken:
            taken = await take(self, action, timeout_s)
            made.end()
            return taken

        with monkeypatch.context() as patch:
            patch.setattr(ResticDriver, "take", then_gone)
            code, events = typed.say("run", "--copy", "one")
        found = [(one["kind"], one["outcome"], one["code"]) for one in events]
        assert (code, found) == (
            console.FAILED,
            [("listed", "failed", "backup-silent"), ("taken", "done", "")],
        )
        assert typed.alarms() == {"backup-unlisted"}
        assert run(["backup", "history", STORE, "--output", "json"]) == console.DONE
        newest = json.loads(capsys.readouterr().out)["events"][0]
        assert (newest["kind"], newest["code"]) == ("listed", "backup-silent")
        made.start("--append-only")
        assert typed.say("list", "--copy", "one")[0] == console.DONE
        assert typed.alarms() == {"backup-rewritten", "backup-incompressible"}


def test_a_restore_takes_the_backup_whose_proof_is_best(typed: Typed, tmp_path: Path) -> None:
    with copies(typed.folder) as made:
        typed.declare(made.action(), made.action("two"))
        assert typed.say("run")[0] == console.DONE
        assert typed.say("restore-test", "--copy", "two")[0] == console.DONE
        code, (event,) = typed.say("restore", "--into", str(tmp_path / "first"))
        assert (code, event["copy"]) == (console.DONE, "two"), (
            "it was restored and compared, the other was not"
        )
        flipped = max(made.packs("two"), key=lambda path: path.stat().st_size)
        flipped.chmod(0o600)
        flipped.write_bytes(flipped.read_bytes()[:-1] + b"!")
        assert typed.say("prove", "--copy", "two")[0] == console.FINDINGS
        code, (event,) = typed.say("restore", "--into", str(tmp_path / "second"))
        assert (code, event["copy"]) == (console.DONE, "one"), "never one that is known to be damaged"
        names = [path.name for path in (tmp_path / "second" / "inner").iterdir()]
        assert sorted(names) == sorted(path.name for path in (made.data / "inner").iterdir())
        code, (event,) = typed.say(
            "restore", "--into", str(tmp_path / "third"), "--copy", "one", "--backup", event["snapshot"][:12]
        )
        assert code == console.DONE


@pytest.mark.parametrize("source", ["pgbackrest", "pg_basebackup"])
def test_a_database_that_goes_on_writing_is_compared_all_the_same(source: str, typed: Typed) -> None:
    """Recovery goes on to the end of the log, which holds more than the witness saw."""
    if source == "pgbackrest":
        with pgbackrest.store(typed.folder, runs=True) as made:
            more: dict[str, Value] = {
                "source": f"host={made.folder} port={made.port} user=postgres",
                "facts": ("rows=SELECT count(*) FROM messages",),
            }
            typed.declare(made.action(1, **more), made.action(2, **more), copied=False)

            def write() -> None:
                pgbackrest.sql(made.folder, made.port, "INSERT INTO messages SELECT generate_series(1, 5)")
                pgbackrest.sql(made.folder, made.port, "SELECT pg_switch_wal()")
                pgbackrest.as_owner(
                    "pgbackrest", f"--config={made.folder}/pgbackrest.conf", "--stanza=m", "check"
                )

            _written_after(typed, write)
    else:
        with world(typed.folder, PostgresSource) as kept:
            server = kept.source
            assert isinstance(server, PostgresSource)
            typed.declare(kept.action(), kept.action("two"))

            def go_on() -> None:
                server.sql("INSERT INTO messages SELECT generate_series(1, 5)")
                server.sql("SELECT pg_switch_wal()")

            _written_after(typed, go_on)


def _written_after(typed: Typed, write: Any) -> None:
    code, _ = typed.say("run")
    assert code == console.DONE
    write()
    code, events = typed.say("restore-test")
    found = [(one["outcome"], one["level"]) for one in events]
    assert (code, found) == (console.DONE, [("passed", 4)] * 2), events
