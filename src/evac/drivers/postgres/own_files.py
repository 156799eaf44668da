"""A member's own files in its data folder: configuration, files that it includes, certificates.

`pg_rewind` and `pg_basebackup` copy every file of the primary's folder, including its configuration, so a
member would come back with another one's address. Its own files are put aside and restored.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CONFIGURATION: Final = frozenset({"postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"})
DATABASE: Final = frozenset(
    {
        "PG_VERSION",
        "backup_label",
        "backup_label.old",
        "backup_manifest",
        "base",
        "current_logfiles",
        "global",
        "log",
        "postmaster.opts",
        "postmaster.pid",
        "recovery.signal",
        "standby.signal",
        "tablespace_map",
        "tablespace_map.old",
    }
)
"""What a server keeps in its data folder, apart from `pg_*` (PostgreSQL manual, database file layout)."""
FILE_BYTES: Final = 1_048_576
FILES_MOST: Final = 1_000
FOLDERS_DEEP: Final = 3


def own_names(data: Path) -> tuple[str, ...]:
    """Relative paths, sorted, of ordinary files in the data folder that no server wrote. Links and files
    larger than 1 MiB are not configuration.
    """
    return tuple(sorted(str(path.relative_to(data)) for path in _own(data, 1)))[:FILES_MOST]


def _own(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or (depth == 1 and _of_the_database(path.name)):
            continue
        if path.is_dir() and depth < FOLDERS_DEEP:
            yield from _own(path, depth + 1)
        elif path.is_file() and path.stat().st_size <= FILE_BYTES:
            yield path


def _of_the_database(name: str) -> bool:
    return name in DATABASE or (name.startswith(("pg_", "evac_")) and name not in CONFIGURATION)


def keep(data: Path, folder: Path) -> None:
    """Copy the member's own files into an existing folder."""
    for name in own_names(data):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(data / name, folder / name)


def put_back(folder: Path, data: Path) -> list[Path]:
    """Restore the member's own files, and delete those that only the primary has, because an included file
    would take effect here too. Returns the paths that it wrote.
    """
    own = own_names(folder)
    for name in set(own_names(data)) - set(own):
        (data / name).unlink()
    written = []
    for name in own:
        for made in reversed((data / name).parents):
            if not made.exists():
                made.mkdir(mode=0o700)
                written.append(made)
        shutil.copy2(folder / name, data / name)
        written.append(data / name)
    return written
