"""One packing to work on step by step: place a service, look, undo, give room back."""

from __future__ import annotations

import numpy as np

from evac.model.errors import InvalidInput
from evac.planning.packing import kernels
from evac.planning.packing.construct import open_packing, standing_rows
from evac.planning.packing.problem import BoolArray, Int64Array, PackingProblem, check_problem
from evac.planning.packing.state import LOG_LENGTH, State, copy_state, reserve

_NO_MASK = np.zeros(0, dtype=np.bool_)


class Packer:
    """A packing that grows and shrinks; `problem.count` is not looked at, the caller says how many.

    Servers are named by their row in the problem. Every change is logged: `mark` before, `undo` after.
    `state` is for callers with kernels of their own (see `kernels`); it may be another object after any
    method that puts replicas, so it is fetched anew each time.
    """

    __slots__ = ("_problem", "_state")

    def __init__(self, problem: PackingProblem) -> None:
        """Start with the present replicas only. Raises InvalidInput (code packing-input)."""
        check_problem(problem)
        self._problem = problem
        self._state = open_packing(problem).state

    @property
    def problem(self) -> PackingProblem:
        """What this packing was opened from."""
        return self._problem

    @property
    def state(self) -> State:
        """The arrays, by position; valid until the next method that puts replicas."""
        return self._state

    def copy(self) -> Packer:
        """An independent packing that stands as this one does."""
        other = object.__new__(Packer)
        other._problem = self._problem
        other._state = copy_state(self._state)
        return other

    def place(
        self,
        service: int,
        count: int,
        *,
        pools: Int64Array | None = None,
        mask: BoolArray | None = None,
    ) -> int:
        """Place up to `count` replicas by first-fit over `pools` in that order (default: all); how many were.

        mask (V): servers it may use. Within a pool servers are taken by rack, then by number.
        """
        self._reserve(count)
        order = np.arange(self._problem.pools) if pools is None else np.asarray(pools)
        allowed = _NO_MASK if mask is None else np.asarray(mask, dtype=np.bool_)[self._state.server_at]
        return int(kernels.fill_pools(self._state, service, count, order.astype(np.int64), allowed))

    def place_on(self, service: int, count: int, servers: Int64Array, *, each: int | None = None) -> int:
        """Place up to `count` replicas on `servers` in that order, at most `each` on one; how many were."""
        self._reserve(count)
        at = self._state.position_of[np.asarray(servers)].astype(np.int64)
        most = count if each is None else each
        return int(kernels.fill_positions(self._state, service, count, at, most))

    def could_place(self, service: int, count: int, *, pools: Int64Array | None = None) -> int:
        """How many of `count` replicas `place` would place now; nothing changes."""
        mark = self.mark()
        placed = self.place(service, count, pools=pools)
        self.undo(mark)
        return placed

    def room_for(self, service: int, server: int) -> int:
        """How many more replicas a server takes, all rules kept."""
        return int(kernels.room_for(self._state, service, self._state.position_of[server]))

    def take(self, service: int, server: int, count: int, *, present: bool = False) -> None:
        """Take replicas away: their room and their part of the spread caps are free again.

        present: they stood there from the start (a survivor that is shed), not placed by this packer.
        Raises InvalidInput (code packing-take) if fewer stand there.
        """
        position = int(self._state.position_of[server])
        found = int(kernels.entry_total(self._state, service, position, present))
        if count < 0 or found < count:
            kind = "present" if present else "placed"
            raise InvalidInput(
                "packing-take",
                f"server {server} holds {found} {kind} replicas of service {service}, not {count}",
                "take no more than `standing` shows",
            )
        self._change(service, position, -count, present)

    def add_room(self, server: int, room: Int64Array) -> None:
        """Enlarge the free room of a server (R), or shrink it by a negative one. Not in the log."""
        position = self._state.position_of[server]
        kernels.add_room(self._state, position, np.asarray(room, dtype=np.int64))

    def mark(self) -> int:
        """Where the log stands now, for `undo` and `changes`."""
        return int(self._state.meta[LOG_LENGTH])

    def undo(self, mark: int) -> None:
        """Bring back what stood at `mark`."""
        kernels.undo(self._state, mark)

    def forget(self) -> None:
        """Empty the log: what stands now can no longer be undone, and marks before are void."""
        self._state.meta[LOG_LENGTH] = 0

    def changes(self, mark: int = 0) -> Int64Array:
        """Changes since `mark` in order, one row each: service, server, count (negative: taken away)."""
        rows = self._state.log[mark : self.mark(), :3].copy()
        rows[:, 1] = self._state.server_at[rows[:, 1]]
        return rows

    def standing(self, *, present: bool = False) -> Int64Array:
        """What this packer placed (present: what stood before), sorted rows: service, server, count."""
        service, position, count = standing_rows(self._state, fixed=present)
        server = self._state.server_at[position]
        rows = np.lexsort((server, service))
        return np.column_stack([service[rows], server[rows], count[rows]]).astype(np.int64)

    def free(self) -> Int64Array:
        """Free room (V, R) by server, a copy."""
        return self._state.free[self._state.position_of]

    def _change(self, service: int, position: int, count: int, present: bool) -> None:
        if count:
            self._reserve(1)
            kernels.put(self._state, service, position, count, present)

    def _reserve(self, count: int) -> None:
        rows = min(count, self._problem.servers)
        self._state = reserve(self._state, entries=rows, log_rows=rows)
