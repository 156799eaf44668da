"""How many files and connections this process may have open."""

from __future__ import annotations

import contextlib
import resource


def raise_limit() -> int:
    """As many as the machine lets it; the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft
