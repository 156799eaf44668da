"""Small estates are planned sooner than kernels compile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evac.planning.compiled import interpreted


@pytest.fixture(autouse=True)
def plain_kernels() -> Iterator[None]:
    with interpreted():
        yield
