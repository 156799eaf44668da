"""What others could have written is read, or refused by an error of evac, and never ends in a traceback: a
short run of `scripts/fuzz_hostile.py`.
"""

from __future__ import annotations

import contextlib
import sys
import time
import zlib
from pathlib import Path

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from evac.engine.runs import effects
from evac.model.errors import Corrupt
from fuzz_hostile import fuzz, targets

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
