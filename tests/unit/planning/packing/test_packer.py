"""`Packer`: place, take, undo, in any order; the rooms and the rules hold after each step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.model.errors import InvalidInput
from evac.planning.packing import kernels
from evac.planning.packing.state import NOTHING, State
from evac.planning.place import Packer
from tests.unit.planning.packing.instances import small_problem, violations

STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(0, 4)), max_size=12)


def _is_sound(packer: Packer) -> bool:
    """Room, counters and tree, told again from what stands."""
    problem, state = packer.problem, packer.state
    free, standing = problem.free.copy(), np.zeros(problem.services, dtype=np.int64)
    gone = _present_taken(packer)
    for service, server, count in packer.standing().tolist():
        free[server] -= count * problem.demand[service]
        standing[service] += count
    for service, server, count in gone:
        free[server] += count * problem.demand[service]
    for service, _, count in packer.standing(present=True).tolist():
        standing[service] += count
    return bool((packer.free() == free).all() and (state.standing == standing).all() and _tree_holds(state))


def _present_taken(packer: Packer) -> list[list[int]]:
    problem = packer.problem
    before = np.zeros((problem.services, problem.servers), dtype=np.int64)
    np.add.at(before, (problem.present_service, problem.present_server), problem.present_count)
    for service, server, count in packer.standing(present=True).tolist():
        before[service, server] -= count
    return [[s, v, before[s, v]] for s, v in np.argwhere(before).tolist()]


def _tree_holds(state: State) -> bool:
    before = state.tree.copy()
    kernels.refresh_all(state)
    return bool((before == state.tree).all() and (before[0] == NOTHING).all())


@given(seed=st.integers(0, 500), steps=STEPS)
def test_undo_brings_everything_back(seed: int, steps: list[tuple[int, int, int]]) -> None:
    packer = Packer(small_problem(seed))
    marks = []
    for service, count, action in steps:
        marks.append((packer.mark(), packer.free(), packer.standing().tolist()))
        _act(packer, service, count, action)
        assert _is_sound(packer)
    for mark, free, standing in reversed(marks):
        packer.undo(mark)
        assert (packer.free() == free).all()
        assert packer.standing().tolist() == standing
        assert _is_sound(packer)


def _act(packer: Packer, service: int, count: int, action: int) -> None:
    """Mostly place; now and then take what was placed, or what was there."""
    rows = packer.standing(present=action == 4)
    if action == 0:
        packer.place_on(service, count, np.arange(packer.problem.servers)[::-1], each=1)
    elif action >= 3 and rows.size:
        service, server, most = rows[count % len(rows)].tolist()
        packer.take(service, server, min(count, most), present=action == 4)
    else:
        packer.place(service, count)


@given(seed=st.integers(0, 500), wanted=st.lists(st.integers(0, 6), min_size=6, max_size=6))
def test_what_is_placed_keeps_the_rules(seed: int, wanted: list[int]) -> None:
    problem = small_problem(seed)
    packer = Packer(problem)
    placed = [
        packer.place(service, min(count, int(problem.count[service]))) for service, count in enumerate(wanted)
    ]
    rows = packer.standing()
    assert violations(problem, rows) == []
    assert [int(rows[rows[:, 0] == s, 2].sum()) for s in range(6)] == placed


@given(seed=st.integers(0, 500))
def test_room_for_says_what_can_be_placed(seed: int) -> None:
    problem = small_problem(seed)
    packer = Packer(problem)
    for service in range(problem.services):
        for server in range(problem.servers):
            room = packer.room_for(service, server)
            mark = packer.mark()
            assert packer.place_on(service, room + 3, np.array([server])) == room
            packer.undo(mark)


def test_pools_and_masks_say_where() -> None:
    problem = small_problem(4)
    packer = Packer(problem)
    service = int(np.flatnonzero(problem.eligible.all(axis=1))[0])
    only = np.zeros(problem.servers, dtype=np.bool_)
    only[[2, 7]] = True
    packer.place(service, 50, mask=only)
    assert set(packer.standing()[:, 1].tolist()) <= {2, 7}
    packer.undo(0)
    packer.place(service, 50, pools=np.array([1]))
    assert set(problem.pool[packer.standing()[:, 1]].tolist()) <= {1}


def test_could_place_changes_nothing() -> None:
    packer = Packer(small_problem(4))
    could = packer.could_place(0, 5)
    assert packer.standing().size == 0
    assert packer.place(0, 5) == could


def test_a_copy_goes_its_own_way() -> None:
    packer = Packer(small_problem(4))
    other = packer.copy()
    assert other.place(0, 5) > 0
    assert packer.standing().size == 0
    assert _is_sound(packer)
    assert _is_sound(other)


def test_room_that_is_added_is_used() -> None:
    problem = small_problem(4)
    packer = Packer(problem)
    service = int(np.flatnonzero(problem.demand.any(axis=1) & problem.eligible.all(axis=1))[0])
    packer.add_room(0, -packer.free()[0] - 1)
    assert packer.room_for(service, 0) == 0
    packer.add_room(0, problem.demand[service] + 1)
    assert packer.room_for(service, 0) == min(1, int(problem.max_per_server[service]))


def test_the_log_grows_and_can_be_forgotten() -> None:
    problem = small_problem(4)
    packer = Packer(problem)
    for _ in range(200):
        placed = packer.place(0, 3)
        for service, server, count in packer.standing().tolist():
            packer.take(service, server, count)
    assert placed > 0
    assert packer.changes()[:, 2].sum() == 0
    assert packer.mark() > 200
    packer.forget()
    assert packer.mark() == 0
    assert _is_sound(packer)


def test_more_than_stands_there_cannot_be_taken() -> None:
    packer = Packer(small_problem(4))
    with pytest.raises(InvalidInput, match="holds 0 placed replicas") as caught:
        packer.take(0, 1, 1)
    assert caught.value.code == "packing-take"
