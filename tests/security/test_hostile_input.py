"""What others could have written is read, or refused by an error of evac, and never ends in a traceback: a
short run of `scripts/fuzz_hostile.py`, and a search for inputs that lead far into a reader.
"""

from __future__ import annotations

import contextlib
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis import target as prefer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from evac.engine.runs import effects
from evac.model.errors import Corrupt
from fuzz_hostile import fuzz, mutated
from fuzz_targets import Target, targets

CASES = 100


def test_every_reader_refuses_what_it_does_not_understand(tmp_path: Path) -> None:
    found = targets(tmp_path)
    assert {"order-headers", "entry-bound", "bundle", "backup-k8up", "import-netbox"} <= found.keys()
    findings = []
    for name, target in found.items():
        ends, wrong = fuzz(name, target, CASES, "7", time.process_time() + 60)
        assert ends["refused"] + ends["read"], name
        findings += wrong
    assert not findings


def test_what_is_mutated_is_read_before_it_is_changed(tmp_path: Path) -> None:
    """A seed that its reader refuses at once would try nothing behind that refusal. Orders are refused for
    what the agent of the test does not list, and no later list of backups shows the one that was just made.
    """
    refused = set()
    for name, target in targets(tmp_path).items():
        for seed in target.seeds:
            try:
                target.read(seed)
            except target.refusals as error:
                refused.add((name, getattr(error, "code", "")))
    assert {name for name, _ in refused} == {"order-unit", "order-action", "tool-pgbackrest"}, refused


def test_a_small_entry_that_unpacks_to_a_large_one_is_refused() -> None:
    bomb = zlib.compress(b" " * (effects.BYTES_MOST + 1))
    assert len(bomb) < 100_000
    with pytest.raises(Corrupt):
        effects.decode(bomb)


@pytest.mark.parametrize("missing", [b"{}", b"[]", b"null", b'{"placed":[]}'])
def test_an_entry_of_another_shape_is_corrupt_and_no_internal_error(missing: bytes) -> None:
    with pytest.raises(Corrupt):
        effects.decode(zlib.compress(missing))


FOUND = {
    "file-estate": b'{"evac": 2, "name": "n", "sites": {"a": {}}, "services": {"web": {"demand": null}}}',
    "file-claims": b"id,account,service,loss,received\nc1,shop,talk,2022-10\r21T10:00:00+09:00\n",
    "file-recipe": b'{"recipe": 1, "sources": {"h": {"kind": "csv", "from": "\\u0000", "site": "a"}}}',
    "tool-borg": b'{"info": {"repository": {"id": "r"}, "archives": [], "cache": {"stats": "x"}}}',
    "tool-restic": b'{"snapshots": []}',
}
"""Each ended in an exception of Python once."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target = targets(tmp_path)[name]
    seeds = orjson.loads(target.seeds[0]) if name.startswith("tool-") else {}
    data = orjson.dumps({**seeds, **orjson.loads(FOUND[name])}) if seeds else FOUND[name]
    with contextlib.suppress(*target.refusals):
        target.read(data)


OURS = f"{Path(__file__).parents[2] / 'src' / 'evac'}/"
GUIDED = (
    "bundle",
    "bundle-manifest",
    "order-headers",
    "order-unit",
    "order-action",
    "entry-segment",
    "entry-event",
)


@contextmanager
def traced(seen: set[tuple[str, int]]) -> Iterator[None]:
    """seen: gets every line of evac that is executed."""

    def line(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        if not name.startswith(OURS):
            return None
        seen.add((name, frame.f_lineno))
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("name", GUIDED)
def test_inputs_that_lead_far_into_a_reader_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """Guided by coverage: hypothesis changes those further of which more lines of evac are executed."""
    one: Target = targets(tmp_path)[name]
    reached = set[tuple[str, int]]()

    @settings(max_examples=400, suppress_health_check=list(HealthCheck), database=None)
    @given(st.randoms(use_true_random=False), st.sampled_from(one.seeds), st.integers(1, 4))
    def search(dice: Random, data: bytes, times: int) -> None:
        for _ in range(times):
            data = mutated(dice, data)
        seen = set[tuple[str, int]]()
        with traced(seen), contextlib.suppress(*one.refusals):
            one.read(data)
        prefer(float(len(seen)), label="lines")
        reached.update(seen)

    search()
    assert len(reached) > 10, "nothing of evac was traced"
