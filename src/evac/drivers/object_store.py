"""S3 buckets: their content, and whether these credentials could destroy it. Changes nothing: test deletions
are for objects that do not exist.

Only a retention in force proves that an object cannot be deleted, and each object has its own: the default of
a bucket does not cover older objects, which later backups also need. In compliance mode no one can shorten
it; in governance mode some may bypass it, so our permission to do so is tested. Without a retention,
credentials that cannot delete may still overwrite. Source: the S3 API reference, "Locking objects with Object
Lock".
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.extras import install
from evac.model.records import dataclass

OBJECTS_MOST: Final = 1_000_000
ASKED_MOST: Final = 20_000
"""Objects whose retention is queried in one call; the others follow in the next."""
AT_ONCE: Final = 16
HOLDS_S: Final = 86_400
"""A retention that ends sooner protects nothing until someone has reacted."""
NOWHERE: Final = "evac-asks-and-deletes-nothing"
COMPLIANCE: Final = "COMPLIANCE"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Location of objects and the credentials for it; without any, those of the machine."""

    name: str
    prefix: str
    endpoint: str = ""
    """URL of the server; empty for AWS."""
    region: str = ""
    key: str = ""
    secret: str = ""
    token: str = ""
    ca_file: str = ""
    is_verified: bool = True
    """Whether to verify the server's certificate."""


@dataclass(frozen=True, slots=True)
class Deletable:
    """Whether credentials can destroy the content of a bucket. why: the reason, or why it is unknown."""

    verdict: bool | None
    why: str


def bucket_of(where: str, env: Mapping[str, str]) -> Bucket:
    """Parse a repository name of restic: `s3:https://host/bucket/prefix`, or `s3:host/bucket`. Raises
    `Permanent` if it names no bucket.
    """
    rest = where.removeprefix("s3:").removeprefix("//")
    name = ""
    with contextlib.suppress(ValueError):  # a host or a port that is not valid
        parts = urlsplit(rest if "://" in rest else f"https://{rest}")
        if parts.hostname and parts.port != 0:
            name, _, prefix = parts.path.strip("/").partition("/")
    if not name:
        raise Permanent(
            "setting-wrong", "the repository URL does not name a bucket", "s3:https://HOST/BUCKET/PREFIX"
        )
    return Bucket(
        name,
        f"{prefix}/" if prefix else "",
        f"{parts.scheme}://{parts.netloc}",
        env.get("AWS_DEFAULT_REGION", ""),
        env.get("AWS_ACCESS_KEY_ID", ""),
        env.get("AWS_SECRET_ACCESS_KEY", ""),
        env.get("AWS_SESSION_TOKEN", ""),
        env.get("RESTIC_CACERT", ""),
    )


Passes = Callable[[str, bool], bool]
"""Whether an object needs no lock because it is temporary: from its key below the prefix, and whether it is
hidden, as after a deletion.
"""


class Asked:
    """One bucket. held: known locks, key and version -> until when, kept by the caller: a retention in
    compliance mode is never shortened, so it is queried once.
    """

    def __init__(self, bucket: Bucket, held: dict[tuple[str, str], float]) -> None:
        self._bucket, self._held = bucket, held
        self._s3 = _client(bucket)

    def sizes(self, below: str = "") -> dict[str, int]:
        """Key below the prefix -> size, of all that begin with `below`. Raises `ActionError`."""
        found: dict[str, int] = {}
        for page in self._listing(f"{self._bucket.prefix}{below}"):
            for one in page:
                found[one["Key"].removeprefix(self._bucket.prefix)] = int(one["Size"])
            if len(found) > OBJECTS_MOST:
                raise Permanent("backup-output", f"the bucket contains more than {OBJECTS_MOST:,} objects")
        return found

    def objects(self, most: int = 0) -> dict[str, tuple[str, float]]:
        """Key below the prefix -> version identifier and time written. most: maximum number; 0: all. Raises
        `Permanent` if there are too many to list.
        """
        found: dict[str, tuple[str, float]] = {}
        for page in self._listing(self._bucket.prefix, MaxKeys=most or 1_000):
            for one in page:
                version = f"{one['Size']} {one['ETag']}"
                found[one["Key"].removeprefix(self._bucket.prefix)] = version, one["LastModified"].timestamp()
            if len(found) >= (most or OBJECTS_MOST):
                break
        if len(found) >= OBJECTS_MOST:
            raise Permanent("backup-output", f"the bucket contains more than {OBJECTS_MOST:,} objects")
        return found

    def replication(self) -> list[dict[str, Any]]:
        """The rules by which it is replicated; empty if there are none."""
        try:
            found = self._call("get_bucket_replication")
        except Refusal as error:
            if error.said == "ReplicationConfigurationNotFoundError":
                return []
            raise
        return list(found.get("ReplicationConfiguration", {}).get("Rules", ()))

    def deletable(self, passes: Passes) -> Deletable:
        """Whether these credentials can destroy its content. Raises `Retryable` if the bucket does not
        respond.
        """
        try:
            if not self._is_locking():
                return self._without_lock("the bucket has no object lock")
            versions = dict(self._versions(passes))
            if not versions:
                return Deletable(None, "the bucket is still empty")
            ends = self._ends_of(versions)
        except Permanent as error:
            return Deletable(None, error.message)
        all_, unheld = len(versions), sum(one <= time.time() + HOLDS_S for one in ends)
        if unheld:
            return self._without_lock(
                f"{unheld:,} of {all_:,} objects are not locked for at least another day"
            )
        if len(ends) < all_:
            return Deletable(None, f"the locks of {all_ - len(ends):,} objects have not been checked yet")
        first = datetime.fromtimestamp(min(ends), UTC)
        return Deletable(False, f"all {all_:,} objects are locked until {first:%Y-%m-%d} or later")

    def _is_locking(self) -> bool:
        try:
            found = self._call("get_object_lock_configuration")
        except Refusal as error:
            if error.said in ("ObjectLockConfigurationNotFoundError", "NotImplemented"):
                return False
            raise
        return bool(found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def _versions(self, passes: Passes) -> Iterator[tuple[str, str]]:
        """Key and newest version of every object that needs a lock. A delete marker precedes what it
        hides.
        """
        pages = self._pages("list_object_versions", Prefix=self._bucket.prefix)
        seen: set[str] = set()
        hidden: set[str] = set()
        for page in pages:
            hidden.update(one["Key"] for one in page.get("DeleteMarkers", ()) if one["IsLatest"])
            for one in page.get("Versions", ()):
                key = one["Key"]
                if key not in seen and not passes(key.removeprefix(self._bucket.prefix), key in hidden):
                    seen.add(key)
                    yield key, one["VersionId"]
            if len(seen) > OBJECTS_MOST:
                raise Permanent("backup-output", f"the bucket contains more than {OBJECTS_MOST:,} objects")

    def _ends_of(self, versions: Mapping[str, str]) -> list[float]:
        """Until when each object is locked, in seconds since 1970, as far as queried."""
        for gone in self._held.keys() - set(versions.items()):
            del self._held[gone]
        asked = [one for one in versions.items() if self._held.get(one, 0.0) <= time.time() + HOLDS_S]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(self._retention, asked[:ASKED_MOST]))
        held = [ends for one, ends in self._held.items() if one not in set(asked)]
        bypassed = any(mode and mode != COMPLIANCE for mode, _ in answers)
        is_sure = not bypassed or self._may_delete(bypass=True) is False
        for one, (mode, ends) in zip(asked, answers, strict=False):
            if mode == COMPLIANCE:
                self._held[one] = ends
            held.append(ends if mode == COMPLIANCE or is_sure else 0.0)
        return held

    def _retention(self, one: tuple[str, str]) -> tuple[str, float]:
        try:
            found = self._call("get_object_retention", Key=one[0], VersionId=one[1])["Retention"]
        except Refusal as error:
            if error.said == "NoSuchObjectLockConfiguration":
                return "", 0.0
            raise
        return str(found["Mode"]), found["RetainUntilDate"].timestamp()

    def _without_lock(self, why: str) -> Deletable:
        if self._may_delete():
            return Deletable(True, f"{why}, and these credentials can delete")
        return Deletable(
            None, f"{why}; they may still be overwritten, or deleted by a lifecycle rule of the bucket"
        )

    def _may_delete(self, bypass: bool = False) -> bool | None:
        """Whether we may delete a version, tested with an object that does not exist."""
        more: dict[str, Any] = {"BypassGovernanceRetention": True} if bypass else {}
        if self._call("get_bucket_versioning").get("Status") is not None:
            more["VersionId"] = "null"
        try:
            self._call("delete_object", Key=f"{self._bucket.prefix}{NOWHERE}", **more)
        except Refusal as error:
            return {"AccessDenied": False, "NoSuchKey": True, "NoSuchVersion": True}.get(error.said)
        return True

    def _call(self, name: str, **given: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._s3, name)(Bucket=self._bucket.name, **given)
        except (ClientError, BotoCoreError, *_NO_ANSWER) as error:
            raise _error(error) from error

    def _listing(self, prefix: str, **given: Any) -> Iterator[list[dict[str, Any]]]:
        """Pages of objects. Raises Retryable for a response that is not a listing of this bucket."""
        for page in self._pages("list_objects_v2", Prefix=prefix, **given):
            found = page.get("Contents", [])
            whole = all({"Key", "Size", "ETag", "LastModified"} <= one.keys() for one in found)
            if page.get("Name") != self._bucket.name or not whole:
                raise Retryable(
                    "backup-output", "the bucket's answer is not a listing of it", "check its server"
                )
            yield found

    def _pages(self, name: str, **given: Any) -> Iterator[Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield from self._s3.get_paginator(name).paginate(Bucket=self._bucket.name, **given)
        except (ClientError, BotoCoreError, *_NO_ANSWER) as error:
            raise _error(error) from error


_NO_ANSWER: Final = (AttributeError, KeyError, TypeError, ValueError, OSError)
"""Errors of the library for responses that no valid server sends."""


def _client(bucket: Bucket) -> Any:
    try:
        from botocore.config import Config
        from botocore.session import get_session
    except ImportError as error:
        words = "buckets require the packages of an extra"
        raise Permanent("backup-tool-missing", words, install("s3")) from error
    return get_session().create_client(
        "s3",
        endpoint_url=bucket.endpoint or None,
        region_name=bucket.region or "us-east-1",
        aws_access_key_id=bucket.key or None,
        aws_secret_access_key=bucket.secret or None,
        aws_session_token=bucket.token or None,
        verify=(bucket.ca_file or None) if bucket.is_verified else False,
        config=Config(
            connect_timeout=5,
            read_timeout=20,
            retries={"max_attempts": 2},
            s3={"addressing_style": "path"},
            max_pool_connections=AT_ONCE,
        ),
    )


class Refusal(Permanent):
    """What a bucket refuses. said: the code of its answer."""

    def __init__(self, code: str, message: str, hint: str, said: str) -> None:
        super().__init__(code, message, hint)
        self.said = said


def _error(error: Exception) -> ActionError:
    """The meaning of a library error; its text contains the request but no secret."""
    response = getattr(error, "response", None) or {}
    code = str((response.get("Error") or {}).get("Code") or "")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"):
        words = f"the bucket rejects these credentials: {code}"
        return Refusal("backup-password", words, "check `env`", code)
    if code == "NoSuchBucket":
        return Refusal("backup-no-repository", "the bucket does not exist: NoSuchBucket", "create it", code)
    if code and not code.isdecimal() and code not in ("SlowDown", "InternalError", "ServiceUnavailable"):
        return Refusal("backup-refused", f"the bucket refuses the request: {code}", "", code)
    words = f"the bucket does not answer: {code or type(error).__name__}"
    return Retryable("backup-silent", words, "check its server")
