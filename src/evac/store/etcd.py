"""The store across three sites: etcd, through its JSON gateway.

A value is stored behind one line that identifies the transaction that wrote it. If a reply is lost, that line
shows whether the transaction was applied, so that it is never applied twice. Only etcd itself compacts the
history.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

import orjson

from evac.model.errors import Conflict, Corrupt, LeaseLost, LockHeld, StoreError, Unavailable
from evac.net.etcd_gateway import (
    AGAIN_S,
    GRPC_NOT_FOUND,
    AnswerTooLarge,
    Full,
    Gateway,
    NotSent,
    Refused,
    raw,
    text_key,
)
from evac.store.port import (
    PREFIX_END,
    Change,
    Compare,
    Entry,
    Lease,
    Put,
    check_key,
    check_lease,
    check_transaction,
)

PAGE_ENTRIES: Final = 256
WATCH_MOST_S: Final = 2.0
HISTORY_MOST: Final = 64
FOREIGN_MOST: Final = 100
MARK_BYTES: Final = 16
"""Length of the line before each value, without its line end: a random number in hexadecimal."""

_log = logging.getLogger("evac.store")


class EtcdStore:
    """`endpoints`: client URLs of the members, local one first. `prefix`: of all evac keys. `password`: a
    reference (`env:NAME`, `file:PATH`); `ca`, `cert`, `key`: files, for https.
    """

    name = "etcd"
    quorum = True

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        prefix: str = "evac",
        user: str = "",
        password: str = "",
        ca: str = "",
        cert: str = "",
        key: str = "",
        attempt_s: float = 1.0,
        deadline_s: float = 5.0,
    ) -> None:
        if not endpoints:
            raise StoreError("store-url", "etcd needs the address of a member", "give one for each site")
        self._gateway = Gateway(
            endpoints,
            user=user,
            password=password,
            tls=(ca, cert, key),
            attempt_s=attempt_s,
            deadline_s=deadline_s,
        )
        self._entries = f"{prefix}/entry/"
        self._leases = f"{prefix}/lease/"
        self._closed = False
        self.foreign: dict[str, int] = {}
        """Keys not written by evac, with the revision at which they were seen. At most `FOREIGN_MOST`."""

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        answer = await self._gateway.call("/v3/kv/range", {"key": text_key(self._entries + key)})
        rows = answer.get("kvs", [])
        return self._entry(rows[0]) if rows else None

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        found: list[Entry] = []
        page, deadline = PAGE_ENTRIES, time.monotonic() + self._gateway.deadline_s
        while len(found) < limit:
            start = max(prefix, after + "\0" if after else "")
            try:
                entries, last = await self._page(prefix, start, min(page, limit - len(found)), deadline)
            except AnswerTooLarge:
                if page == 1:
                    raise
                page = max(1, page // 4)
                continue
            found += entries
            if not last:
                break
            after, deadline = last, time.monotonic() + self._gateway.deadline_s
        return found

    async def _page(
        self, prefix: str, start: str, limit: int, deadline: float
    ) -> tuple[Sequence[Entry], str]:
        """Entries of one response, and the last key read if there may be more. Keys not written by evac are
        skipped: anyone who adds one must not be able to stop a controller.
        """
        body = {
            "key": text_key(self._entries + start),
            "limit": limit,
            "range_end": text_key(self._entries + prefix + PREFIX_END),
        }
        rows = (await self._gateway.call("/v3/kv/range", body, deadline)).get("kvs", [])
        found = []
        for row in rows:
            try:
                found.append(self._entry(row))
            except Corrupt as error:
                self._pass_over(row, error)
        last = self._key_of(rows[-1]) if len(rows) == limit else ""
        return found, last

    def _pass_over(self, row: dict[str, Any], error: Corrupt) -> None:
        key, revision = self._key_of(row), int(row["mod_revision"])
        if self.foreign.get(key) != revision and len(self.foreign) < FOREIGN_MOST:
            self.foreign[key] = revision
            _log.warning("skipped: %s", error)

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        check_transaction(compares, changes)
        mark = secrets.token_hex(MARK_BYTES // 2).encode()
        body = self._transaction(mark, compares, changes, guard)
        witness = _witness(compares, changes)
        deadline, unsure = time.monotonic() + self._gateway.deadline_s, False
        while True:
            try:
                answer = await self._gateway.call_once("/v3/kv/txn", body, deadline)
            except Full:
                if revision := await self._look_for(mark, changes, deadline):
                    return revision
                raise
            except NotSent:
                if unsure:
                    raise Unavailable("no member answers; an earlier attempt may have succeeded") from None
                raise
            except Unavailable:
                unsure = True
                if witness is None and changes:
                    if revision := await self._look_for(mark, changes, deadline):
                        return revision
                    raise
                if time.monotonic() >= deadline or self._closed:
                    raise
                await asyncio.sleep(AGAIN_S)
            except Refused as refused:
                raise _refusal(refused, changes) from refused
            else:
                if answer.get("succeeded"):
                    return int(answer["header"]["revision"])
                if unsure and changes and (done := await self._done_before(mark, witness, deadline)):
                    return done
                raise _against(answer, compares, guard)

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        check_lease(name, ttl_ms)
        deadline = time.monotonic() + self._gateway.deadline_s
        row = await self._lease_row(name)
        if row is not None and (held := self._held(name, row)) is not None:
            raise LockHeld(name, held.owner)
        if row is not None:
            await self._remove_foreign(name, row, deadline)
        lease_id = secrets.randbits(62) | 1  # chosen here, so that granting it twice is no harm
        await self._grant(lease_id, ttl_ms, deadline)
        try:
            token = await self._claim(name, owner, ttl_ms, lease_id, deadline)
        except LockHeld:
            with suppress(StoreError):
                await self._gateway.call("/v3/lease/revoke", {"ID": str(lease_id)}, deadline)
            raise
        return Lease(name, owner, token, ttl_ms, str(lease_id))

    async def renew(self, lease: Lease) -> None:
        deadline = time.monotonic() + self._gateway.deadline_s
        answer = await self._gateway.call("/v3/lease/keepalive", {"ID": lease.id or "0"}, deadline)
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            raise LeaseLost(lease.name)
        key = {"key": text_key(self._leases + lease.name), "keys_only": True}
        found = (await self._gateway.call("/v3/kv/range", key, deadline)).get("kvs", [])
        if not found or int(found[0]["create_revision"]) != lease.token:
            raise LeaseLost(lease.name)

    async def release(self, lease: Lease) -> None:
        try:
            await self._gateway.call("/v3/lease/revoke", {"ID": lease.id or "0"})
        except Refused as refused:
            if refused.grpc != GRPC_NOT_FOUND:
                raise

    async def holder(self, name: str) -> Lease | None:
        check_key(name)
        row = await self._lease_row(name)
        return None if row is None else self._held(name, row)

    async def _lease_row(self, name: str) -> dict[str, Any] | None:
        answer = await self._gateway.call("/v3/kv/range", {"key": text_key(self._leases + name)})
        found: list[dict[str, Any]] = answer.get("kvs", [])
        return found[0] if found else None

    def _held(self, name: str, row: dict[str, Any]) -> Lease | None:
        """None for a key not written by evac: it cannot be read, or has no etcd lease that would end it. It
        would be held forever, so it must not keep controllers from leading.
        """
        try:
            if not int(row.get("lease", 0)):
                raise Corrupt(f"the lease {name} in etcd was not written by evac: it never expires")
            return _read_holder(name, row)
        except Corrupt as error:
            self._pass_over(row, error)
            return None

    async def _remove_foreign(self, name: str, row: dict[str, Any], deadline: float) -> None:
        """Removes it only if unchanged since it was read."""
        key = text_key(self._leases + name)
        as_read = {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(row["mod_revision"])}
        body = {"compare": [as_read], "success": [{"request_delete_range": {"key": key}}], "failure": []}
        await self._gateway.call("/v3/kv/txn", body, deadline)

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        body = {
            "create_request": {
                "key": text_key(self._entries + prefix),
                "range_end": text_key(self._entries + prefix + PREFIX_END),
            }
        }
        while not self._closed:
            yield None
            try:
                async with aclosing(self._gateway.stream("/v3/watch", body, WATCH_MOST_S)) as pieces:
                    async for piece in pieces:
                        yield None
                        if b'"error"' in piece or b'"canceled"' in piece:
                            break
            except Unavailable:
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        self._closed = True
        await self._gateway.close()

    def _transaction(
        self, mark: bytes, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None
    ) -> dict[str, Any]:
        """The request. If it fails, it reads the guard's key, then every compared key."""
        tests = [
            {
                "key": text_key(self._entries + compare.key),
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": str(compare.revision),
            }
            for compare in compares
        ]
        if guard is not None:
            tests.append(
                {
                    "key": text_key(self._leases + guard.name),
                    "target": "CREATE",
                    "result": "EQUAL",
                    "create_revision": str(guard.token),
                }
            )
        reads = [
            {"request_range": {"key": text_key(self._entries + compare.key), "keys_only": True}}
            for compare in compares
        ]
        if guard is not None:
            reads.append({"request_range": {"key": text_key(self._leases + guard.name), "keys_only": True}})
        return {"compare": tests, "success": [self._operation(mark, c) for c in changes], "failure": reads}

    def _operation(self, mark: bytes, change: Change) -> dict[str, Any]:
        key = text_key(self._entries + change.key)
        if not isinstance(change, Put):
            return {"request_delete_range": {"key": key}}
        put = {"key": key, "value": b64encode(mark + b"\n" + change.value).decode()}
        if change.lease is not None:
            put["lease"] = change.lease.id or "1"
        return {"request_put": put}

    async def _done_before(self, mark: bytes, witness: Compare | None, deadline: float) -> int:
        """Whether an attempt whose reply was lost was applied after all: its revision, or 0. Searches the
        history of a key that it would have written. Raises `Unavailable` if the history does not show it.
        """
        body: dict[str, Any] = {"key": text_key(self._entries + witness.key if witness else "")}
        for _ in range(HISTORY_MOST if witness else 0):
            try:
                found = (await self._gateway.call("/v3/kv/range", body, deadline)).get("kvs", [])
            except Refused:  # compacted
                break
            if not found and "revision" not in body and witness is not None and witness.revision == 0:
                return 0
            if not found:
                break
            revision = int(found[0]["mod_revision"])
            if raw(found[0].get("value")).startswith(mark):
                return revision
            if witness is not None and revision <= witness.revision:
                return 0
            body["revision"] = str(revision - 1)
        raise Unavailable(
            "the reply of etcd was lost, and its history does not show whether the change was made"
        )

    async def _look_for(self, mark: bytes, changes: Sequence[Change], deadline: float) -> int:
        """The revision of an applied transaction; 0 if no trace of it is visible (now)."""
        for change in changes:
            if isinstance(change, Put):
                body = {"key": text_key(self._entries + change.key)}
                found = (await self._gateway.call("/v3/kv/range", body, deadline)).get("kvs", [])
                if found and raw(found[0].get("value")).startswith(mark):
                    return int(found[0]["mod_revision"])
        return 0

    async def _grant(self, lease_id: int, ttl_ms: int, deadline: float) -> None:
        body = {"ID": str(lease_id), "TTL": str(-(-ttl_ms // 1_000))}
        try:
            await self._gateway.call("/v3/lease/grant", body, deadline)
        except Refused as refused:
            if "already exists" not in refused.message:
                raise

    async def _claim(self, name: str, owner: str, ttl_ms: int, lease_id: int, deadline: float) -> int:
        """Creates the lease's key unless it exists. Returns its create revision, which is the token."""
        key = text_key(self._leases + name)
        value = orjson.dumps({"owner": owner, "ttl_ms": ttl_ms})
        put = {"key": key, "value": text_key(value.decode()), "lease": str(lease_id)}
        body = {
            "compare": [{"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            "success": [{"request_put": put}],
            "failure": [{"request_range": {"key": key}}],
        }
        try:
            answer = await self._gateway.call("/v3/kv/txn", body, deadline)
        except Refused as refused:
            raise Unavailable(f"the lease {name} expired before it was claimed") from refused
        if answer.get("succeeded"):
            return int(answer["header"]["revision"])
        found = answer["responses"][0]["response_range"].get("kvs", [])
        if found and int(found[0].get("lease", 0)) == lease_id:  # a try before this one did it
            return int(found[0]["create_revision"])
        held = self._held(name, found[0]) if found else None
        raise LockHeld(name, held.owner if held is not None else "somebody")

    def _key_of(self, row: dict[str, Any]) -> str:
        return raw(row["key"]).decode("utf-8", "replace")[len(self._entries) :]

    def _entry(self, found: dict[str, Any]) -> Entry:
        key = self._key_of(found)
        value = raw(found.get("value"))
        if value[MARK_BYTES : MARK_BYTES + 1] != b"\n":
            raise Corrupt(f"{key} in etcd was not written by evac")
        return Entry(key, value[MARK_BYTES + 1 :], int(found["mod_revision"]))


def _witness(compares: Sequence[Compare], changes: Sequence[Change]) -> Compare | None:
    """A key that is both compared and put: once the transaction is applied, a repeat fails, and the value
    says why.
    """
    put = {change.key for change in changes if isinstance(change, Put)}
    return next((compare for compare in compares if compare.key in put), None)


def _against(answer: dict[str, Any], compares: Sequence[Compare], guard: Lease | None) -> StoreError:
    """Why a transaction failed, from what it then read."""
    reads = [response["response_range"].get("kvs", []) for response in answer.get("responses", [])]
    if guard is not None and (not reads[-1] or int(reads[-1][0]["create_revision"]) != guard.token):
        return LeaseLost(guard.name)
    for compare, found in zip(compares, reads, strict=False):
        if (int(found[0]["mod_revision"]) if found else 0) != compare.revision:
            return Conflict(compare.key)
    return Unavailable("etcd rejected a transaction without a reason")


def _refusal(refused: Refused, changes: Sequence[Change]) -> StoreError:
    leases = [change.lease for change in changes if isinstance(change, Put) and change.lease is not None]
    if refused.grpc == GRPC_NOT_FOUND and leases:
        return LeaseLost(leases[0].name)
    return refused


def _read_holder(name: str, found: dict[str, Any]) -> Lease:
    try:
        value = orjson.loads(raw(found.get("value")))
        return Lease(name, str(value["owner"]), int(found["create_revision"]), int(value["ttl_ms"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"the lease {name} in etcd was not written by evac") from error
