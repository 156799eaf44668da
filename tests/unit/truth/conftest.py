"""Small estates are planned in a few milliseconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernels import fastest


@pytest.fixture(autouse=True)
def fast_kernels() -> Iterator[None]:
    with fastest():
        yield
