"""Refusals that concern one store only: reported once, and tried again with everything else of the leader.

An epoch that no one can read ends no controller: its successors would read the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evac.model.errors import Conflict, EvacError, LeaseLost, Unavailable

Say = Callable[[Any, str, str, Mapping[str, Any]], None]
"""Kind of notice, site, words, data."""


class Refusals:
    """Those of one duty in one term."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._reported: dict[str, str] = {}

    @contextlib.contextmanager
    def of(self, store: str, what: str, site: str = "") -> Iterator[None]:
        """Ends the block at a refusal. Reports it unless the last try of the same was refused in the same
        words. An unavailable store of journals and a change by someone else are only tried again. Raises
        LeaseLost.

        what: what concerns the store, in words without a final mark.
        """
        try:
            yield
        except LeaseLost:
            raise
        except (Conflict, Unavailable):
            return
        except EvacError as error:
            if self._reported.get(what) != error.message:
                self._reported[what] = error.message
                told = {"code": error.code, "store": store, "hint": error.hint}
                self._say("trouble", site, f"{what}: {error.message}", told)
        else:
            self._reported.pop(what, None)
