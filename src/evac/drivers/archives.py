"""Archives of what only one member of a data set had: complete once they have a manifest.

An archive is made under a temporary name next to its place and renamed. An earlier one is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from evac.drivers.places import everything_below
from evac.model.errors import Permanent

MANIFEST: Final = "manifest.json"
ARCHIVES_MOST: Final = 99


def free_name(folder: Path) -> Path:
    """The folder name or, if it exists, the first with +2, +3 ... that does not."""
    for number in range(2, ARCHIVES_MOST + 2):
        if not folder.exists():
            return folder
        folder = folder.with_name(f"{folder.name.partition('+')[0]}+{number}")
    raise Permanent(
        "archives-many", f"there are already {ARCHIVES_MOST} archives of one fork", "move them away"
    )


def complete(partial: Path, folder: Path, about: Mapping[str, Any]) -> None:
    """Hash and sync every file, write the manifest, and rename the folder. Raises OSError."""
    files = {}
    for path in [path for path, found in everything_below(partial) if stat.S_ISREG(found.st_mode)]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[str(path.relative_to(partial))] = hashlib.file_digest(file, "sha256").hexdigest()
    with (partial / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({**about, "sha256": files}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder)
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
