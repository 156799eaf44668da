"""Settings that hold for every test: reproducible examples, and the root of the project."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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


# Real servers, controllers and fires for minutes: `make test-long` runs them, `make test` does not.
LONG = (
    "lab/test_comes_back.py", "lab/test_comes_home.py", "lab/test_faults.py", "lab/test_namespaces.py",
    "lab/test_october.py", "lab/test_fleet_validators.py", "e2e/test_embedded_run.py", "web/test_real_run.py",
    "web/test_replay.py", "web/test_run_page.py", "web/test_plan_page.py", "web/test_what_if_page.py",
    "web/test_now_page.py", "sim/test_real_processes.py", "sim/test_real_processes_on_etcd.py",
    "sim/test_waves.py", "sim/test_planted_bugs.py", "contract/store/test_sqlite_crashes.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of long modules."""
    root = Path(__file__).parent
    for item in items:
        if item.path.relative_to(root).as_posix() in LONG:
            item.add_marker(pytest.mark.long)
