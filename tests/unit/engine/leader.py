"""Under whose lease a test performs: one that never ends."""

from __future__ import annotations


class Leader:
    token = 7

    def check(self) -> None:
        """It leads."""
