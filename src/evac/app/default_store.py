"""The store that a command uses if none is named."""

from __future__ import annotations

import os
from pathlib import Path


def default_store() -> str:
    """`EVAC_STORE`, else a SQLite file in this user's state folder, which is created."""
    named = os.environ.get("EVAC_STORE")
    if named:
        return named
    file = _file_of_user()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return f"sqlite:{file}"


def has_default_store() -> bool:
    """Whether `default_store` is named, or was ever written. Creates nothing."""
    return bool(os.environ.get("EVAC_STORE")) or _file_of_user().exists()


def _file_of_user() -> Path:
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "evac" / "evac.sqlite"
