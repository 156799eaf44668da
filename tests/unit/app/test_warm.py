"""Two processes fill the cache of kernels at the same time: none of them may compile what the other does, for
numba writes the cache of one function from one process only.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from evac.app.warm import APART

_LIST = """
import sys
from evac.app.warm import APART
from evac.planning.compiled import ALL, Kernel
APART[sys.argv[1]]()
waiting = [one for one in ALL if "compiled" in vars(one) and one.compiled.signatures]
seen = set()
while waiting:
    kernel = waiting.pop().function
    if (name := f"{kernel.__module__} {kernel.__qualname__}") not in seen:
        seen.add(name)
        called = [kernel.__globals__.get(one) for one in kernel.__code__.co_names]
        waiting += [one for one in called if isinstance(one, Kernel)]
print("\\n".join(sorted(seen)))
"""


def kernels_of(part: str) -> set[str]:
    """What a part calls, and what that calls."""
    done = subprocess.run(
        [sys.executable, "-c", _LIST, part], capture_output=True, text=True, timeout=300, check=True
    )
    return set(done.stdout.splitlines())


@pytest.mark.slow
def test_parts_that_compile_side_by_side_share_no_kernel() -> None:
    search, others = (kernels_of(part) for part in sorted(APART, reverse=True))
    assert min(len(search), len(others)) > 50
    assert search & others == set()
    rooms = {name.split()[0].rpartition(".")[0] for name in others}
    assert {"evac.planning.bound", "evac.planning.simulation"} <= rooms, "else they wait for both parts"
