"""Every story in this folder is told again, and must come out as it is written."""

import os
from pathlib import Path

import pytest

from tests.traces.runner import retold

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_comes_out_as_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    again = retold(text)
    if os.environ.get("EVAC_WRITE_TRACES"):
        path.write_text(again, encoding="utf-8")
    assert again == text or os.environ.get("EVAC_WRITE_TRACES")
