"""The example companies at full size, built once: about a second each."""

from __future__ import annotations

import pytest

from evac.estate.examples import pangyo
from evac.model.estate import Estate


@pytest.fixture(scope="session")
def flawed() -> Estate:
    return pangyo()


@pytest.fixture(scope="session")
def mended() -> Estate:
    return pangyo(mended=True)
