"""Checks the declared backups of stores and data sets: names, endpoints, origins of copies, policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evac.drivers.capabilities import AsksRestored
from evac.drivers.registry import DRIVERS
from evac.estate.format.assembling import Assembly
from evac.estate.format.problems import shown
from evac.estate.format.reading import Reader
from evac.model.backup_policy import BackupPolicy
from evac.model.estate import Backup, Endpoint

CIRCLE_SHOWN: Final = 10
"""Maximum number of endpoints named in one message."""


def check_backups(assembly: Assembly, reader: Reader) -> None:
    """Names shared by two data sets, endpoints that hold two copies, and policies that no copy can meet."""
    stores = {store.id for store in assembly.values["stores"]}
    holds: dict[str, str] = {}
    endpoints = {one.id: one for one in assembly.values["endpoints"]}
    for section in ("stores", "data_sets"):
        for data in assembly.values[section]:
            path = f"{section}/{data.id}"
            if section == "data_sets" and data.id in stores:
                message = f"{shown(data.id)} is also the name of a store"
                reader.problems.add("id-taken", message, reader.place(path), "rename one of them")
            own = {backup.endpoint for backup in data.backups}
            for row, backup in enumerate(data.backups):
                where = f"{path}/backups/{row}"
                endpoint, origin = backup.endpoint, backup.copied_from
                if endpoint is not None and holds.setdefault(endpoint, where) != where:
                    message = f"the endpoint {shown(endpoint)} already holds another backup"
                    hint = "give each backup of each data set its own endpoint"
                    place = reader.place(f"{where}/endpoint", where)
                    reader.problems.add("backup-endpoint-shared", message, place, hint)
                if origin is not None and (origin not in own or origin == endpoint):
                    message = f"{shown(data.id)} has no other backup at the endpoint {shown(origin)}"
                    place = reader.place(f"{where}/copied_from", where)
                    hint = "set copied_from to the endpoint of another backup of the same data"
                    reader.problems.add("backup-copied-from-nothing", message, place, hint)
            _check_copy_circles(data.backups, path, reader)
            _check_policy(data.backup_policy, path, reader)
            _check_request(data.id, data.backup_policy, endpoints, path, reader)


def _check_request(
    data_set: str,
    policy: BackupPolicy | None,
    endpoints: Mapping[str, Endpoint],
    path: str,
    reader: Reader,
) -> None:
    """A request at an endpoint whose driver cannot send it, or that is for other data."""
    found = None if policy is None or policy.request is None else endpoints.get(policy.request)
    if found is None:
        return
    place = reader.place(f"{path}/backup_policy/request", path)
    if not DRIVERS[found.driver].can(AsksRestored):
        able = ", ".join(name for name, one in DRIVERS.items() if one.can(AsksRestored))
        message = f"{found.driver} cannot send a request to restored data"
        hint = f"use an endpoint with the driver {able}"
        reader.problems.add("backup-request-unable", message, place, hint)
    elif found.subject != data_set:
        message = f"the endpoint {shown(found.id)} is for {shown(found.subject)}, not for {shown(data_set)}"
        reader.problems.add("backup-request-elsewhere", message, place, f"name an endpoint for: {data_set}")


def _check_copy_circles(backups: Sequence[Backup], path: str, reader: Reader) -> None:
    """Backups that are copied from one another, so that none of them is ever taken: one problem a circle."""
    rows = {one.endpoint: row for row, one in enumerate(backups) if one.endpoint is not None}
    origins = [None if one.copied_from is None else rows.get(one.copied_from) for one in backups]
    done: set[int] = set()
    for begin in range(len(backups)):
        walked: dict[int, None] = {}
        row: int | None = begin
        while row is not None and row not in done and row not in walked:
            walked[row] = None
            row = origins[row]
        if row is not None and row in walked:
            circle = list(walked)[list(walked).index(row) :]
            if len(circle) > 1:  # a backup copied from itself has a problem of its own
                ends = ", ".join(shown(str(backups[one].endpoint)) for one in sorted(circle)[:CIRCLE_SHOWN])
                message = f"the backups at {ends} are copied from one another, so none of them is ever taken"
                where = f"{path}/backups/{min(circle)}"
                hint = "remove copied_from from the one that is taken from the data itself"
                place = reader.place(f"{where}/copied_from", where)
                reader.problems.add("backup-copy-circle", message, place, hint)
        done.update(walked)


def _check_policy(policy: BackupPolicy | None, path: str, reader: Reader) -> None:
    if policy is None or policy.waived is not None:
        return
    most, message = policy.copies, ""
    if max(policy.outside, policy.undeletable) >= most:
        message = f"one of the {most} copies is the original, so at most {most - 1} can be backups"
    elif policy.systems > most:
        message = f"{most} copies cannot be on {policy.systems} systems"
    if message:
        place = reader.place(f"{path}/backup_policy", path)
        hint = "raise copies, or lower outside, undeletable or systems"
        reader.problems.add("backup-policy-impossible", message, place, hint)
