"""Settings that hold for every test: reproducible examples, the root of the project, and a browser; also how
much processor the tests of each file take, where their durations are asked for.
"""

from __future__ import annotations

import gc
import resource
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.chromium import Kept
from tests.open_transports import name_their_tests
from tests.spreading import spread

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROJECT_ROOT = Path(__file__).resolve().parents[1]

# The same examples on every machine and in every run: a failure seen in CI is a failure seen at home.
# No deadline, because the first call of a kernel compiles it, and a loaded machine is not a bug.
settings.register_profile(
    "evac",
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("evac")
name_their_tests()


@pytest.fixture(scope="session", autouse=True)
def no_store_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands use the store of their user; no test may depend on what is in the store of its developer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
        yield


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds pyproject.toml."""
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real input beside the project; a test that asks for it skips where it is absent."""
    folder = PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real input in ../shared/data is not on this machine")
    return folder


CHROMIUM = Kept()


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Chromium without a window, and without the windows of the test before; skips where there is none."""
    started = CHROMIUM.browser(request.path)
    yield started
    for context in started.contexts:
        context.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    CHROMIUM.end_before(item)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end, so no search for garbage looks at them. Searches are few, as tests
    leave little.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        gc.enable()


def pytest_sessionfinish() -> None:
    CHROMIUM.end()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers begin with different real servers: two labs at once on two cores are slow for both."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        items[:] = spread(items, workers, lambda item: item.path.relative_to(PROJECT_ROOT / "tests").parts[0])


BEGAN = pytest.StashKey[int]()
SPENT: Counter[str] = Counter()
"""File -> milliseconds of processor of its tests, with the programs that they started and waited for."""


def _processor_ms() -> int:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(1_000 * sum(one.ru_utime + one.ru_stime for one in used))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[BEGAN] = _processor_ms()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    now = _processor_ms()
    report.processor_ms = now - item.stash[BEGAN]
    item.stash[BEGAN] = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    SPENT[report.nodeid.partition("::")[0]] += getattr(report, "processor_ms", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    most = terminalreporter.config.getoption("durations")
    if most and SPENT:
        terminalreporter.section(f"processor: {sum(SPENT.values()) / 1_000:.0f} s in all; the most by file")
        for name, spent in SPENT.most_common(most):
            terminalreporter.write_line(f"{spent / 1_000:.2f}s {name}")
