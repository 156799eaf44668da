"""Driver for object storage: lists two buckets through the S3 API, and changes nothing.

A bucket without a source, where objects are written, is the primary. One with a source follows while an
enabled rule of the source replicates everything into it. Its lag is the age of the oldest object in the
source that it does not have in the same version; a listing shows that for any server, whatever replicates.
Source: the S3 API reference, "Replicating objects".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from evac.drivers.capabilities import ReportsRole, RoleReport
from evac.drivers.object_store import Asked, Bucket
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.model.errors import ActionError, Permanent, Retryable
from evac.net import secrets

_ARN: Final = "arn:aws:s3:::"


class S3Driver(ReportsRole):
    """Each endpoint is one bucket."""

    name = "s3"

    async def close(self) -> None:
        """Nothing to close."""

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await asyncio.to_thread(_report, action, time.time())
        except TimeoutError as error:
            words = f"the bucket {text(action.settings, 'bucket')} did not answer within {timeout_s:.1f} s"
            raise Retryable("s3-unreachable", words, after_ms=500) from error
        except ActionError as error:
            code = error.code.replace("backup-", "s3-")
            raise error.said_as(code, error.message) from error


def _report(action: Action, now_s: float) -> RoleReport:
    values = action.settings
    url, region = text(values, "url", ""), text(values, "region", "")
    key = text(values, "key", "")
    secret = secrets.resolve(text(values, "secret")).reveal() if key else ""
    here = Asked(Bucket(text(values, "bucket"), "", url, region, key, secret), {})
    source = text(values, "source", "")
    if not source:
        here.objects(most=1)
        return RoleReport("primary", 0)
    there = Asked(
        Bucket(
            source, "", text(values, "source_url", url), text(values, "source_region", region), key, secret
        ),
        {},
    )
    if not replicates(there.replication(), text(values, "bucket")):
        return RoleReport("detached")
    try:
        wanted, held = there.objects(), here.objects()
    except Permanent as error:
        if error.code == "backup-output":
            return RoleReport("replica")
        raise
    missing = [when for name, (version, when) in wanted.items() if held.get(name, ("",))[0] != version]
    return RoleReport("replica", max(0, int((now_s - min(missing)) * 1_000)) if missing else 0)


def replicates(rules: Sequence[Mapping[str, Any]], bucket: str) -> bool:
    """Whether an enabled rule copies every object into a bucket."""
    return any(
        rule.get("Status") == "Enabled"
        and rule.get("Destination", {}).get("Bucket") in (f"{_ARN}{bucket}", bucket)
        and (rule.get("Prefix") == "" or rule.get("Filter") in ({}, {"Prefix": ""}))
        for rule in rules
    )
