"""Buckets of a real S3 server (moto), with real restic and pgBackRest: what a check read is counted, and only
a lock that is in force proves that nobody can delete a backup.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest
from botocore.session import get_session
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server

from evac.backup.evidence import Evidence
from evac.backup.jobs import Task, Worker
from evac.derive.backups import verdicts
from evac.derive.domains import topology
from evac.drivers.capabilities import READ
from evac.drivers.object_store import HOLDS_S, Asked, Bucket
from evac.drivers.pgbackrest.driver import CONFIG_MOST, PgbackrestDriver
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.model.backup import BackupEvent, BackupFacts
from evac.model.backup_policy import BackupPolicy
from evac.model.estate import Backup, DataSet, Endpoint, Estate, Site
from evac.store.port import MemoryStore, host_monotonic_ms
from tests.contract.adapters import pgbackrest, restic
from tests.unit.engine.authorities import Authority

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "lighthouse-of-copies-41"}


@dataclass
class Cloud:
    url: str
    s3: Any

    def bucket(self, name: str, mode: str = "", days: int = 7) -> Bucket:
        """A new one; mode: of the retention of so many days that objects get by default."""
        self.s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=bool(mode))
        if mode and days:
            rule = {"DefaultRetention": {"Mode": mode, "Days": days}}
            lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
            self.s3.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=lock)
        return Bucket(name, "one/", self.url, key="testing", secret=KEYS["AWS_SECRET_ACCESS_KEY"])


def retention(self: Any, query: dict[str, Any], key_name: str) -> Any:
    """GetObjectRetention, which moto does not answer although it keeps what is asked for."""
    if "retention" not in query:
        return ANSWER_OF_MOTO(self, query, key_name)
    key = self.backend.get_object(self.bucket_name, key_name, version_id=query["versionId"][0])
    if key.lock_mode is None:
        return 404, {}, "<Error><Code>NoSuchObjectLockConfiguration</Code></Error>"
    words = f"<Mode>{key.lock_mode}</Mode><RetainUntilDate>{key.lock_until}</RetainUntilDate>"
    return 200, {}, f'<Retention xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{words}</Retention>'


ANSWER_OF_MOTO = S3Response._key_response_get


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(S3Response, "_key_response_get", retention)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urlopen(Request(f"{url}/moto-api/reset", method="POST")).close()  # all of its servers share one memory
    s3 = get_session().create_client("s3", endpoint_url=url, region_name="us-east-1")
    try:
        yield Cloud(url, s3)
    finally:
        server.stop()


def put(cloud: Cloud, bucket: Bucket, *keys: str, **how: Any) -> None:
    for key in keys:
        cloud.s3.put_object(Bucket=bucket.name, Key=f"{bucket.prefix}{key}", Body=b"pack", **how)


def asked(bucket: Bucket) -> Any:
    return Asked(bucket, {}).deletable(lambda key, _: key.startswith("locks/"))


def everything(cloud: Cloud, bucket: Bucket) -> Any:
    found = cloud.s3.list_object_versions(Bucket=bucket.name)
    return [
        (one["Key"], one["VersionId"])
        for kind in ("Versions", "DeleteMarkers")
        for one in found.get(kind, ())
    ]


@pytest.mark.parametrize(
    ("code", "verdict"),
    [("NoSuchKey", True), ("NoSuchVersion", True), ("NoSuchBucket", None), ("AccessDenied", None)],
)
def test_a_bucket_is_deletable_only_if_an_absent_object_may_be_deleted(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, code: str, verdict: bool | None
) -> None:
    bucket = cloud.bucket("plain")
    answer = 403 if code == "AccessDenied" else 404, {}, f"<Error><Code>{code}</Code></Error>"
    monkeypatch.setattr(S3Response, "_key_response_delete", lambda *given: answer)
    assert asked(bucket).verdict is verdict


def test_a_lock_on_every_object_is_proof_and_an_unlocked_one_takes_it_away(cloud: Cloud) -> None:
    bucket = cloud.bucket("locked", "COMPLIANCE", 0)
    assert asked(bucket).verdict is None, "of nothing nothing is known"
    ends = datetime.now(UTC) + timedelta(days=30)
    put(
        *(cloud, bucket, "config", "data/a", "data/b"),
        ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=ends,
    )
    put(cloud, bucket, "locks/x")
    before = everything(cloud, bucket)
    found = asked(bucket)
    assert found.verdict is False, found
    assert "all 3 objects are locked" in found.why
    assert everything(cloud, bucket) == before, "a question changes nothing"
    put(cloud, bucket, "data/c")
    assert asked(bucket).verdict is True
    assert "1 of 4 objects" in asked(bucket).why


@pytest.mark.parametrize("left_s", [-60, 60, HOLDS_S - 60])
def test_a_lock_that_ends_within_a_day_is_none(cloud: Cloud, left_s: int) -> None:
    bucket = cloud.bucket("locked", "COMPLIANCE")
    put(cloud, bucket, "config")
    ends = datetime.now(UTC) + timedelta(seconds=left_s)
    put(cloud, bucket, "data/old", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=ends)
    assert asked(bucket).verdict is True
    put(
        cloud,
        bucket,
        "data/old",
        ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=ends + timedelta(days=9),
    )
    assert asked(bucket).verdict is False


def test_a_lock_that_we_may_bypass_is_none(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = cloud.bucket("governed", "GOVERNANCE")
    put(cloud, bucket, "config", "data/a")
    assert asked(bucket).verdict is True, "moto lets everyone bypass it"
    deny(monkeypatch, "bypass")
    assert asked(bucket).verdict is False


def deny(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The server refuses deletions: all, or those that bypass a retention; moto itself has no such rights."""
    real = S3Response.delete_object

    def refused(self: Any) -> Any:
        bypasses = str(self.headers.get("x-amz-bypass-governance-retention", "")).lower() == "true"
        if what == "all" or bypasses:
            return 403, {}, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return real(self)

    monkeypatch.setattr(S3Response, "delete_object", refused)


@pytest.mark.parametrize("versioned", [False, True])
def test_without_a_lock_nothing_is_proof(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, versioned: bool
) -> None:
    bucket = cloud.bucket("plain")
    if versioned:
        cloud.s3.put_bucket_versioning(Bucket="plain", VersioningConfiguration={"Status": "Enabled"})
    put(cloud, bucket, "config", "data/a")
    before = everything(cloud, bucket)
    found = asked(bucket)
    assert (found.verdict, everything(cloud, bucket)) == (True, before)
    deny(monkeypatch, "all")
    found = asked(bucket)
    assert found.verdict is None, "what may not be deleted may still be overwritten"
    assert "overwritten" in found.why


def test_a_bucket_that_is_not_there_or_silent_is_named(cloud: Cloud) -> None:
    found = asked(Bucket("nowhere", "", cloud.url, key="testing", secret="x"))
    assert (found.verdict, "NoSuchBucket" in found.why) == (None, True)


@pytest.mark.parametrize(("mode", "verdict"), [("COMPLIANCE", False), ("", True)])
def test_backups_of_restic_in_a_bucket(server_folder: Path, cloud: Cloud, mode: str, verdict: bool) -> None:
    """Taken, listed, checked by bytes and restored; a declaration changes nothing of what was asked."""
    cloud.bucket("backups", mode)
    restic.write_files(server_folder / "data")
    where = f"s3:{cloud.url}/backups/one"
    os.environ[restic.VARIABLE] = restic.PASSWORD
    settings = {
        "repository": where,
        "password": f"env:{restic.VARIABLE}",
        "paths": (str(server_folder / "data"),),
        "env": tuple(f"{name}=env:{name}" for name in KEYS),
    }
    endpoint = Endpoint("r-s3", "messages", "ansan", "restic", settings)
    store = MemoryStore(host_monotonic_ms)
    evidence = Evidence(store, 0.0)
    worker = Worker(store, evidence, Drivers(), SystemClock(), server_folder / "scratch", "one")

    async def story() -> list[BackupEvent]:
        jobs: Any = ("take", "list", "prove", "restore-test")
        tasks = [Task(job, "messages", "s3", endpoint, 0, level=READ, compare=False) for job in jobs]
        return [await worker.do(one) for one in tasks]

    try:
        restic.restic("init", repository=where, more=KEYS)
        taken, listed, proven, restored = asyncio.run(story())
    finally:
        del os.environ[restic.VARIABLE]
    assert taken.outcome == "done", taken
    assert listed.seen is not None
    assert (listed.seen.count, listed.seen.deletable) == (1, verdict), listed
    assert proven.proof is not None
    assert (proven.proof.outcome, proven.proof.bytes_read > 100_000) == ("passed", True), proven
    assert restored.proof is not None
    assert restored.proof.outcome == "passed", restored


def test_a_second_repository_in_a_locked_bucket_is_the_one_that_nobody_can_delete(
    server_folder: Path, cloud: Cloud
) -> None:
    """Two copies of one data set: that in the folder can be deleted, whatever the estate declares."""
    cloud.bucket("backups", "COMPLIANCE")
    where = f"s3:{cloud.url}/backups/two"
    env = tuple(f"{name}=env:{name}" for name in KEYS)
    with restic.copies(server_folder) as world:
        restic.restic("init", repository=where, more=KEYS)
        near = world.settings(repository=str(server_folder / "served" / "one"))
        far = world.settings(repository=where, env=env)
        ends = [
            Endpoint(f"r-{at}", "messages", at, "restic", end) for at, end in (("near", near), ("far", far))
        ]
        store = MemoryStore(host_monotonic_ms)
        evidence = Evidence(store, 0.0)
        worker = Worker(store, evidence, Drivers(), SystemClock(), server_folder / "scratch", "one")

        async def story() -> tuple[BackupEvent, Any]:
            await worker.do(Task("list", "messages", "r-near", ends[0], 0))
            copied = await worker.do(Task("copy", "messages", "r-far", ends[1], 0, ends[0]))
            return copied, await evidence.known("messages")

        copied, known = asyncio.run(story())
    assert copied.outcome == "done", copied
    backups = tuple(Backup(at, endpoint=f"r-{at}", deletable=False) for at in ("near", "far"))
    policy = BackupPolicy(undeletable=2)
    data = DataSet("messages", "volume", "home", (), 1, backups, policy)
    sites = tuple(Site(name) for name in ("home", "near", "far"))
    estate = Estate("t", sites=sites, data_sets=(data,), endpoints=tuple(ends))
    seen = tuple(one for one in (known.seen("r-near"), known.seen("r-far")) if one is not None)
    (verdict,) = verdicts(topology(estate), BackupFacts(seen, ()), seen[0].at_ms)
    assert {one.name: one.deletable for one in verdict.copies} == {"r-near": True, "r-far": False}
    digit = next(one for one in verdict.digits if one.name == "undeletable")
    assert (digit.state, digit.known, digit.possible) == ("missed", 1, 1)
    assert "objects are locked until" in "".join(one.deletable_why for one in verdict.copies)


class EndsTls(MotoRequestHandler):
    """Says so when it ends a connection: else that is an attack to pgBackRest, which asks again."""

    def finish(self) -> None:
        super().finish()
        with suppress(OSError):
            self.connection.unwrap()


@contextmanager
def over_tls(folder: Path) -> Iterator[tuple[int, Path]]:
    """The same buckets over TLS, as pgBackRest asks for it: a port of localhost, and whom to believe."""
    files = Authority(folder).sign("buckets", "localhost")
    server = make_server(
        *("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), True),
        request_handler=EndsTls,
        ssl_context=(str(files.cert), str(files.key)),
    )
    serving = Thread(target=server.serve_forever)
    serving.start()
    try:
        yield int(server.server_address[1]), files.ca
    finally:
        server.shutdown()
        serving.join()


@contextmanager
def postgres_in(folder: Path, cloud: Cloud, mode: str) -> Iterator[pgbackrest.Store]:
    """A running store whose second repository is in a bucket."""
    cloud.bucket("backups", mode)
    with pgbackrest.store(folder) as world, over_tls(folder) as (port, authority):
        path = folder / "pgbackrest.conf"
        begins, _, ends = path.read_text().partition(f"repo2-path={folder}/repo2\n")
        options = {
            "type": "s3",
            "path": "/two",
            "s3-bucket": "backups",
            "s3-region": "us-east-1",
            "bundle": "y",
            "s3-endpoint": "localhost",
            "storage-port": port,
            "storage-ca-file": authority,
            "s3-uri-style": "path",
            "s3-key": "testing",
            "s3-key-secret": KEYS["AWS_SECRET_ACCESS_KEY"],
        }
        path.write_text(begins + "".join(f"repo2-{name}={one}\n" for name, one in options.items()) + ends)
        pgbackrest.give(folder)
        with pgbackrest.running(folder / "data", world.port):
            pgbackrest.as_owner("pgbackrest", f"--config={path}", "--stanza=m", "stanza-create")
            yield world


def hide(cloud: Cloud, part: str) -> None:
    """Deletes what has this part in its key, as anyone may in spite of its lock."""
    for one in cloud.s3.list_objects_v2(Bucket="backups")["Contents"]:
        if part in one["Key"]:
            cloud.s3.delete_object(Bucket="backups", Key=one["Key"])


def unlock(cloud: Cloud, part: str) -> None:
    """The retention of what has this part in its key has ended."""
    for key, version in everything(cloud, Bucket("backups", "")):
        held = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object("backups", key, version_id=version)
        if part in key and held is not None and hasattr(held, "lock_until"):
            held.lock_until = "2020-01-01T00:00:00Z"


@pytest.mark.parametrize(("mode", "verdict"), [("COMPLIANCE", False), ("", True)])
def test_backups_of_pgbackrest_in_a_bucket(
    server_folder: Path, cloud: Cloud, mode: str, verdict: bool
) -> None:
    """Taken, listed, checked by bytes and restored. What pgBackRest expired needs no lock any more; what a
    backup needs and somebody deleted does.
    """
    with postgres_in(server_folder, cloud, mode) as world:
        action = world.action(2)
        endpoint = Endpoint("r-s3", "messages", "ansan", "pgbackrest", action.settings)
        store = MemoryStore(host_monotonic_ms)
        worker = Worker(store, Evidence(store, 0.0), Drivers(), SystemClock(), world.places, "one")

        def do(*jobs: Any) -> list[BackupEvent]:
            async def story() -> list[BackupEvent]:
                tasks = [Task(job, "messages", "s3", endpoint, 0, level=READ, compare=False) for job in jobs]
                return [await worker.do(one) for one in tasks]

            return asyncio.run(story())

        def can_delete() -> bool | None:
            return asyncio.run(PgbackrestDriver().list_copies(action, 60.0)).deletable

        taken, listed, proven, restored = do("take", "list", "prove", "restore-test")
        assert taken.outcome == "done", taken
        assert listed.seen is not None
        assert (listed.seen.count, listed.seen.deletable) == (1, verdict), listed
        assert proven.proof is not None
        assert (proven.proof.outcome, proven.proof.bytes_read > 100_000) == ("passed", True), proven
        assert restored.proof is not None
        assert restored.proof.outcome == "passed", restored
        if not mode:
            return
        first, second = taken.snapshot, do("take")[0].snapshot
        argv = (f"--config={world.folder}/pgbackrest.conf", "--stanza=m", "--repo=2")
        pgbackrest.as_owner("pgbackrest", *argv, "--repo2-retention-full=1", "expire")
        unlock(cloud, f"/{first}/")
        assert can_delete() is False, "the first backup was expired: it needs no lock"
        hide(cloud, f"/{second}/bundle/")
        assert can_delete() is False, "it is hidden, and nobody can destroy it"
        unlock(cloud, f"/{second}/bundle/")
        assert can_delete() is True


def test_a_repository_whose_kind_is_not_known_is_not_called_undeletable(server_folder: Path) -> None:
    """A server of its own may be append-only or not; a file that cannot be read says nothing."""
    with pgbackrest.store(server_folder) as world:
        path = server_folder / "pgbackrest.conf"
        whole = path.read_text()
        for words, verdict, why in (
            (whole, True, ""),
            (f"{whole}repo1-host=backup.example\n", None, ""),
            (f"{whole}repo1-type=azure\n", None, ""),
            (f"{whole}repo1-type=s3\n", None, "does not set s3-bucket"),
            ("[m]\nrepo1-type=s3\n[m", None, "cannot read"),
            (
                f"{whole}#{' ' * CONFIG_MOST}\n[m]\nrepo1-host=a\n",
                None,
                "is longer than 1,000,000 characters",
            ),
        ):
            path.write_text(words)
            found = PgbackrestDriver()._can_delete(world.action(), ())
            assert (found.verdict, why in found.why, bool(found.why)) == (verdict, True, bool(why)), words
