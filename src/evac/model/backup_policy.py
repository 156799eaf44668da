"""What a company requires of the backups of one data set."""

from __future__ import annotations

from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class ProofAges:
    """Maximum age of a proof by its level (`model.backup`); None: no requirement."""

    structure_ms: int | None = None
    read_ms: int | None = None
    restored_ms: int | None = None
    compared_ms: int | None = None
    served_ms: int | None = None

    def __bool__(self) -> bool:
        """Whether any level is required."""
        return bool(self.by_level)

    @property
    def by_level(self) -> dict[int, int]:
        """Level -> milliseconds, for those that are required."""
        ages = (self.structure_ms, self.read_ms, self.restored_ms, self.compared_ms, self.served_ms)
        return {level: age_ms for level, age_ms in enumerate(ages, 1) if age_ms is not None}


@dataclass(frozen=True, slots=True)
class BackupPolicy:
    """What a company requires of the backups of one data set. Schedules are cron expressions in UTC."""

    copies: int = 3
    """Number of copies, including the original."""
    systems: int = 2
    """Number of different systems that they are stored on."""
    outside: int = 1
    """Number of backups that survive any loss of one domain that destroys the original."""
    undeletable: int = 1
    """Number of backups that the credentials of the source cannot delete."""
    rpo_ms: int | None = None
    """Maximum age of the newest copy."""
    keep_ms: int | None = None
    """How old the oldest backup of a copy must be at least: how far back a restore can reach."""
    level: int = 3
    """Minimum proof level (`model.backup`) of every copy."""
    proof_age_ms: int = 180 * 86_400_000
    """Maximum age of a proof of that level."""
    schedule: str | None = None
    """When backups are taken."""
    prove: str | None = None
    """When the next part of every copy is read and checked."""
    parts: int = 7
    """Number of checks after which every part of a copy has been read."""
    restore_test: str | None = None
    """When a copy is restored into an empty place and its content checked."""
    restore_needs: tuple[str, ...] = ()
    """Services that any restore needs: the catalogue, the key store, the repository server."""
    keys_at: tuple[str, ...] = ()
    """Where the encryption keys of the copies are stored."""
    waived: str | None = None
    """Why no backup is needed; the other fields are then ignored."""
    keep_count: int | None = None
    """Minimum number of backups in a copy."""
    proof_ages: ProofAges = ProofAges()
    """Levels that every copy must also reach, each within an age of its own. For `level`, the smaller age
    counts.
    """
    request: str | None = None
    """The endpoint that sends a request of the application to data that a test restored (level 5)."""

    @property
    def proofs_asked(self) -> tuple[tuple[int, int], ...]:
        """(level, maximum age in ms): each copy needs a proof of at least each level within its age."""
        ages = dict(self.proof_ages.by_level)
        ages[self.level] = min(self.proof_age_ms, ages.get(self.level, self.proof_age_ms))
        return tuple(sorted(ages.items()))

    def proof_age_of(self, level: int) -> int:
        """How long a proof of a level counts as one of that level."""
        stated_ms = self.proof_ages.by_level.get(level, self.proof_age_ms)
        return min(stated_ms, self.proof_age_ms) if level == self.level else stated_ms
