"""evac backup: the matrix, one data set, tools and history, from one document; exit codes for scripts."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evac.app.backups import MOST_SHOWN, blocked, instead_of, perform
from evac.backup.evidence import Evidence
from evac.cli import console
from evac.cli.main import run
from evac.drivers import places, registry
from evac.drivers.capabilities import CopyReport
from evac.drivers.registry import Drivers
from evac.engine.stores.guards import HOLD_KEY
from evac.estate import load
from evac.model.backup import NOTHING_SEEN, BackupEvent, CopySeen, ProofRecord
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import InvalidInput, LockHeld, NotAllowed, Retryable
from evac.model.estate import Backup, Site
from evac.model.run_policy import RunPolicy, Window
from evac.model.step_id import TOOL_ROLES
from evac.store.opening import open_store
from evac.store.port import Compare, Put
from evac.views.backup_view import history_document, history_sheet
from evac.views.sheet import sheet_text
from tests.unit.backup.world import SPEC, Repository, Vault, estate_of

ESTATE = """
evac: 1
name: demo
sites: {anyang: {}, pangyo: {}, sejong: {}}
services:
  wiki: {people: 10, replicas: {pangyo: 1}}
  deploy: {people: 0, replicas: {pangyo: 1, anyang: 1}, needs: [wiki]}
  pager: {people: 0, replicas: {pangyo: 1}}
tools: {deploy: [deploy], paging: [pager]}
data_sets:
  wiki-files:
    at: pangyo
    used_by: [wiki]
    backups:
      - {at: anyang, endpoint: near, system: disk, size: 1 GiB, restore: 1 Gbit/s}
      - {at: sejong, endpoint: far, system: tape, size: 1 GiB, restore: 1 Gbit/s, copied_from: near}
    backup_policy: {rpo: 24 h, level: 4, schedule: "15 1 * * *"}
  cache: {at: pangyo, backup_policy: {waived: rebuilt every night}}
  forgotten: {at: pangyo}
endpoints:
  near: {for: wiki-files, at: anyang, driver: restic, settings: {repository: /no/near, password: "env:BPW"}}
  far: {for: wiki-files, at: sejong, driver: restic, settings: {repository: /no/far, password: "env:BPW"}}
"""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def keep(url: str, *events: BackupEvent) -> None:
    async def work() -> None:
        store = open_store(url)
        for event in events:
            await Evidence(store).add(event)
        await store.close()

    asyncio.run(work())


def seen(copy: str, deletable: bool, age_ms: int = 60_000) -> BackupEvent:
    at_ms = now_ms()
    known = CopySeen("wiki-files", copy, at_ms, at_ms - age_ms, 5_000, 3, deletable=deletable, tool="restic")
    return BackupEvent(
        "listed", at_ms, "wiki-files", copy, "park", tool="restic", version="0.18.0", seen=known
    )


def proven(copy: str, level: int = 4, outcome: str = "passed", detail: str = "") -> BackupEvent:
    record = ProofRecord(
        "wiki-files",
        copy,
        level,
        outcome,
        now_ms() + 1,
        5_000,
        1_000_000,
        tool="restic",
        detail=detail,  # type: ignore[arg-type]
    )
    return BackupEvent("proven", record.at_ms, "wiki-files", copy, proof=record, tool="restic")


@pytest.fixture
def estate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EVAC_STORE", f"sqlite:{tmp_path / 'store.sqlite'}")
    monkeypatch.setenv("COLUMNS", "140")
    (tmp_path / "estate.yaml").write_text(ESTATE)
    return str(tmp_path / "estate.yaml")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.sqlite'}"


def test_a_change_of_credentials_is_recorded_missed_and_withdrawn(
    estate: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(url, seen("near", False), seen("far", False), proven("near"), proven("far"))

    def state() -> str:
        run(["backup", "status", estate, "--output", "json"])
        rows = json.loads(capsys.readouterr().out)["data_sets"]
        return str(next(row for row in rows if row["data_set"] == "wiki-files")["renewed"])

    assert state() == "None"
    assert run(["backup", "credentials-changed", estate, "wiki-files", "--copy", "near"]) == console.DONE
    assert "changed at 20" in capsys.readouterr().out
    assert state() == "missed"
    run(["backup", "status", estate])
    assert "missed: credentials" in capsys.readouterr().out
    run(["backup", "status", estate, "wiki-files"])
    assert "no backup is newer" in capsys.readouterr().out
    assert run(["audit", estate, "--all", "--fail-on", "never"]) == console.DONE
    assert "no backup of wiki-files at anyang is newer than the change" in " ".join(
        capsys.readouterr().out.split()
    )
    earlier = ["backup", "credentials-changed", estate, "wiki-files", "--at", "2020-01-01T00:00:00Z"]
    assert run(earlier) == console.DONE
    capsys.readouterr()
    assert state() == "missed", "an older change does not replace a newer one"
    withdraw = [*earlier[:4], "--withdraw"]
    assert run([*withdraw, "--output", "json"]) == console.DONE
    said = [(one["copy"], one["detail"]) for one in json.loads(capsys.readouterr().out)["events"]]
    assert said == [(copy, "withdrawn: changed at 2020-01-01 00:00:00 UTC") for copy in ("near", "far")]
    assert state() == "missed", "only the record that was added last is withdrawn"
    assert run(withdraw) == console.DONE
    capsys.readouterr()
    assert state() == "None"
    assert run(withdraw) not in (console.DONE, console.FINDINGS)
    assert "no change of credentials is recorded for wiki-files" in capsys.readouterr().err
    run(["backup", "history", "wiki-files"])
    assert capsys.readouterr().out.count("credentials-changed") == 6
    files = Path(estate)
    files.write_text(files.read_text().replace("disk,", "disk, credentials_changed: 2020-01-01,"))
    assert run(withdraw) not in (console.DONE, console.FINDINGS)
    told = capsys.readouterr().err
    assert "no change of credentials is recorded for wiki-files; the estate states one of near" in told
    assert "next: to withdraw that, remove credentials_changed from the estate" in told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("wiki", "--copy", "near"), "the estate has no backup of wiki"),
        (("wiki-files", "--copy", "gone"), "the estate has no backup gone of wiki-files"),
        (("cache",), "the estate has no backup of cache"),
        (("wiki-files", "--at", "2999-01-01T00:00:00Z"), "--at is in the future"),
        (("wiki-files", "--at", "yesterday"), "--at: 'yesterday' is not a time"),
        (("wiki-files", "--at", "2020-01-01T00:00:00Z", "--withdraw"), "--withdraw takes no --at"),
    ],
)
def test_a_change_of_credentials_that_cannot_be_recorded_is_refused(
    estate: str, url: str, more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(url, seen("near", False))
    assert run(["backup", "credentials-changed", estate, *more]) not in (console.DONE, console.FINDINGS)
    assert words in capsys.readouterr().err

    async def kept() -> int:
        store = open_store(url)
        try:
            return len((await Evidence(store).facts()).credentials)
        finally:
            await store.close()

    assert asyncio.run(kept()) == 0


def test_before_anything_was_seen_nothing_is_called_good(
    estate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["backup", "status", estate]) == console.DONE
    text = capsys.readouterr().out
    assert "1 cannot be judged" in text
    assert "never checked" in text
    assert "waived: rebuilt every night" in text
    assert "no policy" in text
    assert run(["backup", "status", estate, "--fail-on", "unknown"]) == console.FINDINGS
    assert run(["backup", "status", estate, "--fail-on", "missed"]) == console.DONE


def test_the_same_facts_as_text_json_and_markdown(
    estate: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(url, seen("near", True), seen("far", False), proven("near"), proven("far"))
    assert run(["backup", "status", estate, "--output", "json"]) == console.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"missed": 0, "unknown": 0, "undecided": 1, "met": 1, "waived": 1}
    row = next(one for one in document["data_sets"] if one["data_set"] == "wiki-files")
    assert [(one["name"], one["state"]) for one in row["digits"]] == [
        (name, "met") for name in ("copies", "systems", "outside", "undeletable", "errors")
    ]
    assert row["copies"][0]["proof"]["level_words"] == "compared"
    assert row["copies"][0]["proof"]["bytes_read"] == 5_000
    assert run(["backup", "status", estate, "--output", "markdown"]) == console.DONE
    assert "| wiki-files | met | 3-3-2-1-0 | near |" in capsys.readouterr().out
    assert run(["backup", "status", estate, "wiki-files"]) == console.DONE
    text = capsys.readouterr().out
    assert "compared just now" in text
    assert "the source can delete it  no" in text


def test_damage_is_seen_everywhere(estate: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    keep(url, seen("near", True), seen("far", False), proven("near"), proven("far"))
    keep(url, proven("far", 2, "damaged", "pack 17 differs"))
    assert run(["backup", "status", estate, "--fail-on", "missed"]) == console.FINDINGS
    text = capsys.readouterr().out
    assert "missed: copies, undeletable, proof" in text
    assert "damaged: pack 17 differs" in text
    assert run(["audit", estate, "--output", "json", "--fail-on", "never"]) == console.DONE
    findings = json.loads(capsys.readouterr().out)["findings"]
    damaged = [one for one in findings if one["subject"] == "wiki-files at sejong"]
    assert any("pack 17 differs" in one["message"] for one in damaged), "the audit reads the same store"


def test_history_says_who_when_and_by_which_tool(
    estate: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(url, seen("near", True), proven("near", 3, "could-not-run", "the repository is locked"))
    assert run(["backup", "history", "wiki-files"]) == console.DONE
    text = " ".join(capsys.readouterr().out.split())
    for words in ("2 events", "park", "restic 0.18.0", "could not run"):
        assert words in text
    assert run(["backup", "history", "wiki-files", "--output", "json", "--most", "1"]) == console.DONE
    (event,) = json.loads(capsys.readouterr().out)["events"]
    assert (event["kind"], event["outcome"], event["level"]) == ("proven", "could-not-run", 3)
    assert run(["backup", "history", "nothing"]) == console.DONE
    assert "Nothing has happened yet." in capsys.readouterr().out


def test_tools_come_first(estate: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backup", "tools", estate]) == console.FINDINGS
    text = capsys.readouterr().out
    assert "the estate lists no data for it" in text, "nobody knows whether the pager could be restored"
    assert "wiki-files" in text, "what the tool needs through another service"


def test_no_tools_are_no_proof(estate: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was listed, so nothing is known: that is not the same as all is well."""
    assert "tools:" in ESTATE
    Path(estate).write_text(re.sub(r"(?m)^tools:.*\n", "", ESTATE))
    run(["backup", "tools", estate])
    text = capsys.readouterr().out
    assert "proven" not in text
    assert "names no recovery tools" in text
    example = re.search(r"such as: (tools: \{.*\})", " ".join(text.split()))
    assert example is not None
    roles = yaml.safe_load(example[1])["tools"]
    assert set(roles) <= set(TOOL_ROLES), "what it suggests must be accepted"


def test_the_export_of_a_chat_is_data_of_the_tool_chat(
    estate: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    export = "  chat-export: {at: pangyo, used_by: [talk], backups: [{at: sejong}], backup_policy: {}}\n"
    text = ESTATE.replace("tools: {", "tools: {chat: [talk], ").replace(
        "data_sets:\n", f"data_sets:\n{export}"
    )
    text = text.replace("services:\n", "services:\n  talk: {people: 0, replicas: {pangyo: 1}}\n")
    Path(estate).write_text(text)
    assert run(["backup", "tools", estate, "--output", "json"]) == console.FINDINGS
    rows = json.loads(capsys.readouterr().out)
    (chat,) = [row for row in rows if row["role"] == "chat"]
    assert (chat["service"], chat["data_set"], chat["state"]) == ("talk", "chat-export", "missed")


@pytest.mark.parametrize("rest", ["keys_at: [pangyo]", "restore_needs: [wiki]"])
def test_a_tool_whose_restore_burns_with_it_is_not_met(
    estate: str, url: str, rest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(url, seen("near", True), seen("far", False), proven("near"), proven("far"))

    def deploy() -> tuple[str, str]:
        run(["backup", "tools", estate, "--output", "json"])
        rows = json.loads(capsys.readouterr().out)
        row = next(one for one in rows if one["data_set"] == "wiki-files")
        return row["state"], row["words"]

    assert deploy()[0] == "met"
    Path(estate).write_text(ESTATE.replace("level: 4,", f"level: 4, {rest},"))
    state, words = deploy()
    assert state == "missed", "however well its backups are proven"
    assert "wiki-files cannot be restored after the loss of pangyo" in words


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["status", "ESTATE", "elsewhere"], "no data set elsewhere"),
        (["run", "ESTATE", "elsewhere"], "it has: wiki-files"),
        (["run", "ESTATE", "forgotten"], "none have an endpoint"),
        (["prove", "ESTATE", "wiki-files", "--copy", "middle"], "backups with an endpoint: near, far"),
        (["run", "ESTATE", "wiki-files", "--server", "http://127.0.0.1:1"], "use the store instead"),
    ],
)
def test_what_does_not_exist_is_named(
    estate: str, words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [estate if word == "ESTATE" else word for word in words]
    assert run(["backup", *given]) == console.USAGE
    assert hint in capsys.readouterr().err


def test_a_check_that_cannot_run_fails_and_proves_nothing(
    estate: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BPW", "a password")
    assert run(["backup", "prove", estate, "wiki-files", "--copy", "far", "-q"]) == console.FAILED
    assert "could not run" in capsys.readouterr().out
    run(["backup", "status", estate])
    assert "never checked; last check could not run" in " ".join(capsys.readouterr().out.split())


def test_a_restore_that_fails_names_another_backup(
    estate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The site of the best one may be gone."""
    monkeypatch.setenv("BPW", "a password")
    into = str(tmp_path / "restored")
    for tried, other in (("near", "far"), ("far", "near")):
        argv = ["backup", "restore", estate, "wiki-files", "--into", into, "--copy", tried, "-q"]
        assert run(argv) == console.FAILED
        assert f"next: fix that, or restore another backup: --copy {other}" in capsys.readouterr().out


SPARE = """
  spare: {for: wiki-files, at: anyang, driver: restic, settings: {repository: /no/spare, password: "env:BPW"}}
"""


def test_the_other_backup_is_the_best_that_can_be_used_and_of_another_site(
    estate: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """near and spare are at one site, far at another."""
    monkeypatch.setenv("BPW", "a password")
    spare = "      - {at: anyang, endpoint: spare, system: tape, size: 1 GiB, restore: 1 Gbit/s}\n"
    more = ESTATE.replace("    backup_policy: {rpo", f"{spare}    backup_policy: {{rpo") + SPARE.lstrip("\n")
    Path(estate).write_text(more)

    def named_after(tried: str) -> str:
        argv = ["backup", "restore", estate, "wiki-files", "--into", str(tmp_path / "restored"), "-q"]
        assert run([*argv, "--copy", tried]) == console.FAILED
        return "".join(re.findall("restore another backup: --copy ([a-z]+)", capsys.readouterr().out))

    keep(url, seen("near", True), seen("far", False), seen("spare", False), proven("spare"))
    assert named_after("near") == "far", "the site of near may be gone"
    assert named_after("far") == "spare", "it is proven, and near is not"
    keep(url, proven("far", 2, "damaged", "pack 17 differs"))
    assert named_after("near") == "spare", "rather of the same site than damaged"
    keep(url, proven("spare", 2, "damaged", "pack 17 differs"))
    assert named_after("near") == ""
    assert named_after("spare") == "near"


def test_another_backup_does_not_help_where_the_folder_is_the_problem(estate: str) -> None:
    """Every code of a driver that is about the folder is known as one."""
    source = Path(places.__file__).parent.rglob("*.py")
    codes = {code for path in source for code in re.findall(r'"(place-[a-z-]+)"', path.read_text())}
    assert {"place-full", "place-not-empty"} <= codes
    for code in (*codes, places.LOCKED):
        failed = BackupEvent("restored", 1, "wiki-files", "near", outcome="failed", code=code)
        words = instead_of(load(estate), NOTHING_SEEN, now_ms(), failed)
        assert words == "restore into another folder: --into FOLDER", code
    silent = BackupEvent("restored", 1, "wiki-files", "near", outcome="failed", code="backup-silent")
    assert instead_of(load(estate), NOTHING_SEEN, now_ms(), silent) == "restore another backup: --copy far"


def test_a_report_says_in_whole_lines_where_the_data_is() -> None:
    place = "/srv/a/folder/whose/path/is/longer/than/any/column/of/a/table/would/be"
    done = replace(seen("near", True), kind="restored", seen=None, detail=f"c1 is in {place}")
    sheet = history_sheet(history_document("wiki-files", [done]), f"next: check {place}", is_report=True)
    lines = sheet_text(sheet, 100, False).splitlines()
    assert [line for line in lines if place in line] == [
        f"  near  c1 is in {place}",
        f"  next: check {place}",
    ]


def test_a_hold_stops_what_nobody_insists_on(estate: str, url: str) -> None:
    async def held() -> None:
        store = open_store(url)
        await store.transact([Compare(HOLD_KEY, 0)], [Put(HOLD_KEY, b'{"who": "park", "reason": "drill"}')])
        assert await blocked(store, RunPolicy(), frozenset({"anyang"}), 5) == (
            "hold",
            "park put everything on hold",
        )
        await store.close()

    asyncio.run(held())
    loaded = load(estate)
    with pytest.raises(NotAllowed, match="park put everything on hold"):
        asyncio.run(perform(url, loaded, RunPolicy(), "prove", "wiki-files", "", "lee", False, print))
    with pytest.raises(InvalidInput):
        asyncio.run(perform(url, loaded, RunPolicy(), "prove", "cache", "", "lee", True, print))


def test_a_backup_that_another_process_works_on_stops_only_itself(estate: str, url: str) -> None:
    async def held(*names: str) -> list[str]:
        store = open_store(url)
        leases = [await store.acquire(f"backup/{name}", "park/7", 60_000) for name in names]
        try:
            return [
                event.code
                for event in await perform(
                    url, load(estate), RunPolicy(), "prove", "wiki-files", "", "lee", True, print
                )
            ]
        finally:
            for lease in leases:
                await store.release(lease)
            await store.close()

    free = asyncio.run(held())
    assert "lock-held" not in free
    assert asyncio.run(held("near")) == ["lock-held", free[1]]
    assert asyncio.run(held("far")) == [free[0], "lock-held"]
    with pytest.raises(LockHeld):
        asyncio.run(held("near", "far"))


def test_a_copy_after_a_backup_that_failed_is_said_to_be_an_older_one(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """The backup fails, or another process works on it; copies are made in the order of their origins."""
    monkeypatch.setattr(registry, "DRIVERS", {**registry.DRIVERS, "vault": SPEC})
    names = ("third", "far", "r-wiki")
    repositories = {name: Repository([CopyReport("c0", 0, 1_000)], takes_s=0.0) for name in names}
    monkeypatch.setattr("evac.app.backups.Drivers", lambda: Drivers({"vault": lambda: Vault(repositories)}))
    backups = (
        Backup("sejong", endpoint="third", copied_from="far"),
        Backup("pangyo", endpoint="far", copied_from="r-wiki"),
        Backup("anyang", endpoint="r-wiki"),
    )
    estate = replace(
        estate_of(BackupPolicy(), backups), sites=(Site("anyang"), Site("pangyo"), Site("sejong"))
    )

    def made() -> list[tuple[str, str, str]]:
        found = asyncio.run(perform(url, estate, RunPolicy(), "take", "wiki", "", "lee", True, print))
        sheet = history_sheet(history_document("wiki", reversed(found)), is_report=True)
        shown.append(" ".join(sheet_text(sheet, 300, False).split()))
        return [(event.copy, event.outcome, event.code) for event in found]

    async def while_another_works() -> list[tuple[str, str, str]]:
        store = open_store(url)
        lease = await store.acquire("backup/r-wiki", "park/7", 60_000)
        try:
            return await asyncio.to_thread(made)
        finally:
            await store.release(lease)
            await store.close()

    shown: list[str] = []
    older = [("far", "done", "copied-older"), ("third", "done", "copied-older")]
    repositories["r-wiki"].unread = Retryable("source-unread", "the source does not answer")
    assert made() == [("r-wiki", "failed", "source-unread"), *older]
    assert (
        len(re.findall("a copy of the backup of [-: 0-9]+ UTC: the one at r-wiki failed at ", shown[0])) == 2
    )
    repositories["r-wiki"].unread = None
    assert asyncio.run(while_another_works()) == [("r-wiki", "failed", "lock-held"), *older]
    busy = "a copy of the backup of [-: 0-9]+ UTC: another process was working on the one at r-wiki at "
    assert len(re.findall(busy, shown[1])) == 2
    repositories["r-wiki"].missing = ("/srv/missing",)
    assert made() == [(name, "failed", "backup-incomplete") for name in ("r-wiki", "far", "third")]


def test_the_first_check_of_a_repository_knows_its_size(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A small one is read as a whole: most of its parts would be empty, and prove nothing."""
    repository = Repository([CopyReport("c0", 0, 1_000)])
    monkeypatch.setattr(registry, "DRIVERS", {**registry.DRIVERS, "vault": SPEC})
    drivers = Drivers({"vault": lambda: Vault({"r-wiki": repository})})
    monkeypatch.setattr("evac.app.backups.Drivers", lambda: drivers)
    estate = estate_of(BackupPolicy(parts=7))
    for _ in range(2):
        found = asyncio.run(perform(url, estate, RunPolicy(), "prove", "wiki", "", "lee", True, print))
        assert [(event.kind, event.outcome) for event in found] == [("proven", "done")]
    assert repository.parts == [(1, 1), (1, 1)]
    assert [what for what, _ in repository.asked] == ["list", "prove", "prove"]


def test_maintenance_stops_its_own_sites(url: str) -> None:
    async def story() -> None:
        store = open_store(url)
        policy = RunPolicy(windows=(Window(10, 20, ("anyang",), "new switches"),))
        assert await blocked(store, policy, frozenset({"anyang"}), 15) == ("maintenance", "new switches")
        assert await blocked(store, policy, frozenset({"anyang"}), 20) == ("", "")
        assert await blocked(store, policy, frozenset({"sejong"}), 15) == ("", "")
        await store.close()

    asyncio.run(story())


def test_sudden_changes_are_shown_with_what_to_do(
    estate: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = seen("near", True, age_ms=120_000)
    assert before.seen is not None
    later = replace(before.seen, at_ms=before.at_ms + 1, taken_at_ms=before.at_ms, bytes=90_000)
    keep(url, before, replace(before, at_ms=later.at_ms, seen=later))
    assert run(["backup", "status", estate]) == console.DONE
    text = " ".join(capsys.readouterr().out.split())
    assert "Sudden changes Check the source, and keep older backups until you know why." in text
    assert "the newest backup has 90,000 bytes, and the one before it had 5,000" in text
    assert run(["backup", "status", estate, "--output", "json"]) == console.DONE
    (alarm,) = json.loads(capsys.readouterr().out)["alarms"]
    assert (alarm["data_set"], alarm["copy"], alarm["code"]) == ("wiki-files", "near", "backup-size-jumped")


def test_a_restore_says_how_long_it_should_take_and_shows_it_while_it_runs(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "DRIVERS", {**registry.DRIVERS, "vault": SPEC})
    monkeypatch.setenv("EVAC_RESTORE_TESTS", str(tmp_path / "tests"))
    is_shown, shares, told = asyncio.Event(), [], []

    class Slow(Vault):
        async def restore(self, *given: Any) -> Any:
            if told and "about" in told[-1]:
                await is_shown.wait()
            return await super().restore(*given)

    vault = Slow({"r-wiki": Repository([CopyReport("c0", 1, 1_000)], takes_s=0.01)})
    monkeypatch.setattr("evac.app.backups.Drivers", lambda: Drivers({"vault": lambda: vault}))

    def shows(share: float, words: str) -> None:
        shares.append(share)
        assert words.startswith("r-wiki")
        is_shown.set()

    async def test() -> None:
        estate = estate_of(BackupPolicy())
        await perform(
            url, estate, RunPolicy(), "restore-test", "wiki", "", "lee", True, told.append, shows=shows
        )

    asyncio.run(test())
    assert told == ["restore-test of wiki at r-wiki: no test has measured yet how long it takes"]
    assert shares == []
    asyncio.run(test())
    assert "restore-test of wiki at r-wiki: about " in told[1]
    assert shares
    assert all(0 <= share <= MOST_SHOWN for share in shares)
