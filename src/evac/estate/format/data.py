"""How an estate describes data: stores with their copies, other data, backups and their objectives.

A part of the table of the format (`spec`).
"""

from __future__ import annotations

from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.kinds import (
    Field,
    Listed,
    Record,
    Records,
    choice,
    cron,
    day,
    flag,
    measure,
    objectives,
    reference,
    small_count,
    text,
)
from evac.model import estate as m
from evac.model.backup_policy import BackupPolicy, ProofAges
from evac.model.step_id import FENCE_RUNGS
from evac.model.units import UNLIMITED

_DURATION: Final = measure(q.DURATION)
_TAKES: Final = measure(q.DURATION, "high")
_RPO: Final = measure(q.DURATION, named={"unlimited": UNLIMITED})
_DOMAIN: Final = reference("domain", "path of a fault domain, or server name")
_LEVEL: Final = small_count(0, 5)

_MEMBER: Final = Record(
    (
        Field("at", "at", _DOMAIN, "where the copy is", required=True),
        Field(
            "mode",
            "mode",
            choice(("primary", "sync", "async", "none")),
            "how it follows the primary",
            required=True,
        ),
        Field("lag", "lag_ms", _TAKES, "maximum lag; of a primary: once it follows another"),
        Field("votes", "votes", small_count(0, 1_000), "votes it has in a quorum", default=1),
    ),
    m.StoreMember,
)
_BACKUP: Final = Record(
    (
        Field("at", "at", _DOMAIN, "where the backup is stored", required=True),
        Field("size", "size_gib", measure(q.DISK_NEEDED, "high"), "amount of data to restore"),
        Field("age", "age_ms", _TAKES, "maximum age of the newest backup"),
        Field("restore", "restore_mbps", measure(q.BANDWIDTH_HELD, "low"), "restore rate"),
        Field("verified", "verified", day(), "when it was last restored and verified"),
        Field(
            "proven",
            "proven",
            _LEVEL,
            "proof level reached by that restore: 3 restored (default), 4 compared, 5 served",
        ),
        Field("endpoint", "endpoint", reference("endpoint"), "endpoint whose driver manages it"),
        Field("system", "system", text(), "storage medium: `disk`, `tape`, ...; default: name of the driver"),
        Field("deletable", "deletable", flag(), "whether the source's credentials can delete it"),
        Field(
            "credentials_changed",
            "credentials_changed",
            day(),
            "when the credentials of its repository were last changed",
        ),
        Field("schedule", "schedule", cron(), "when it is taken; overrides the schedule of the policy"),
        Field(
            "copied_from", "copied_from", reference("endpoint"), "endpoint of the backup it is copied from"
        ),
    ),
    m.Backup,
)
_PROOF_AGES: Final = Record(
    tuple(
        Field(key, f"{key}_ms", _DURATION, f"maximum age of a proof of level {level} or higher")
        for level, key in enumerate(("structure", "read", "restored", "compared", "served"), 1)
    ),
    ProofAges,
)
_POLICY: Final = Record(
    (
        Field("copies", "copies", small_count(1, 20), "number of copies, including the original", default=3),
        Field(
            "systems",
            "systems",
            small_count(1, 20),
            "number of different systems that hold a copy",
            default=2,
        ),
        Field(
            "outside",
            "outside",
            small_count(0, 20),
            "number of backups that no single loss destroys together with the original",
            default=1,
        ),
        Field(
            "undeletable",
            "undeletable",
            small_count(0, 20),
            "number of backups that the source's credentials cannot delete",
            default=1,
        ),
        Field("rpo", "rpo_ms", _DURATION, "maximum age of the newest backup"),
        Field(
            "keep", "keep_ms", _DURATION, "minimum age of the oldest backup: how far back a restore can go"
        ),
        Field(
            "keep_count", "keep_count", small_count(1, 100_000), "minimum number of backups in a repository"
        ),
        Field(
            "level",
            "level",
            _LEVEL,
            "minimum proof level of every backup; state 4 if restored content must equal what a witness saw",
            default=3,
        ),
        Field(
            "proof_age",
            "proof_age_ms",
            _DURATION,
            "maximum age of that proof",
            default=180 * 86_400_000,
        ),
        Field(
            "proof_ages",
            "proof_ages",
            _PROOF_AGES,
            "maximum age of a proof by level: each is required in addition to `level`",
            default=ProofAges(),
        ),
        Field("schedule", "schedule", cron(), "when backups are taken, in UTC"),
        Field("prove", "prove", cron(), "when the next part of every backup is read and verified"),
        Field("parts", "parts", small_count(1, 1_000), "number of parts a backup is read in", default=7),
        Field("restore_test", "restore_test", cron(), "when a backup is restored to an empty location"),
        Field(
            "request",
            "request",
            reference("endpoint"),
            "endpoint that sends a request of the application to the restored data (proof level 5)",
        ),
        Field(
            "restore_needs",
            "restore_needs",
            Listed(reference("service")),
            "services required for any restore: catalogue, key store, repository server",
            default=(),
        ),
        Field("keys_at", "keys_at", Listed(_DOMAIN), "where the keys of the backups are stored", default=()),
        Field("waived", "waived", text(), "why no backup is needed"),
    ),
    BackupPolicy,
)

_DATA_IN: Final = Field(
    "data_in",
    "data_in",
    Listed(reference("site, region or group")),
    "sites, regions or groups of sites where its data may be stored; default: all",
)
STORE: Final[tuple[Field, ...]] = (
    Field(
        "family",
        "family",
        text(),
        "stores of one family are alternatives to each other; default: the ID of the store",
    ),
    Field("engine", "engine", text(), "database engine, such as postgresql", default="unknown"),
    Field("members", "members", Records(_MEMBER), "its copies", default=()),
    Field("quorum", "quorum", flag(), "true: it accepts writes only with a majority of votes", default=False),
    Field("automatic", "automatic", flag(), "whether a replica becomes primary automatically"),
    Field("rpo", "rpo_ms", _RPO, "RPO: maximum acceptable data loss; `unlimited`: any loss is acceptable"),
    Field(
        "objectives",
        "objectives",
        objectives(Field("rpo", "rpo_ms", _RPO, "RPO for that class")),
        "different RPO by class of loss, such as `{region: {rpo: 1 h}}`",
    ),
    Field("fence", "fence_ms", _TAKES, "how long it takes to make sure that the old primary has stopped"),
    Field(
        "fence_rung",
        "fence_rung",
        choice(FENCE_RUNGS),
        "how reliably the old primary is stopped",
        default="isolate",
    ),
    Field("promote", "promote_ms", _TAKES, "how long it takes to promote a replica"),
    Field(
        "elect", "elect_ms", _TAKES, "how long members take to elect a primary by themselves; default: 30 s"
    ),
    Field(
        "sync_timeout",
        "sync_timeout_ms",
        measure(q.DURATION, "high", {"never": m.NO_TIMEOUT_MS}),
        "how long its primary blocks commits after losing its sync replicas; `never`: until a person acts",
    ),
    Field(
        "backups",
        "backups",
        Records(_BACKUP),
        "its backups; they must be restored before they can serve",
        default=(),
    ),
    Field("backup_policy", "backup_policy", _POLICY, "its backup requirements"),
    Field(
        "backup_before_move",
        "backup_before_move",
        flag(),
        "whether a fresh backup is taken before an evacuation or a failback moves its primary",
        default=False,
    ),
    Field("backup_time", "backup_time_ms", _TAKES, "how long taking a backup takes"),
    Field(
        "rebuilt_from",
        "rebuilt_from",
        reference("store family"),
        "family of stores that a search index or cache is rebuilt from when it has no copy left",
    ),
    Field("rebuild", "rebuild_ms", _TAKES, "how long the rebuild takes, once those stores accept writes"),
    _DATA_IN,
)

DATA_SET: Final[tuple[Field, ...]] = (
    Field("kind", "kind", text(), "volume, repository, configuration, secrets, zones, ...", default="volume"),
    Field("at", "at", _DOMAIN, "where the original is"),
    Field("used_by", "used_by", Listed(reference("service")), "services that need it", default=()),
    Field("size", "size_gib", measure(q.DISK_NEEDED, "high"), "size of the original"),
    Field(
        "backups",
        "backups",
        Records(_BACKUP),
        "its backups; they must be restored before they can serve",
        default=(),
    ),
    Field("backup_policy", "backup_policy", _POLICY, "its backup requirements"),
    _DATA_IN,
)
