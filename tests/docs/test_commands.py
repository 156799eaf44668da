"""Every command that README.md and the documentation show is run, and must answer as the page says."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.console_pages import (
    Command,
    Needs,
    PageFile,
    WrongFence,
    output_matches,
    pages,
    read_page,
)

ROOT = Path(__file__).resolve().parents[2]
# Programs that a page may show besides ours. Any other first word fails: nothing is passed over in silence.
PLAIN_TOOLS = frozenset(
    {
        "cat",
        "cd",
        "cp",
        "diff",
        "echo",
        "export",
        "grep",
        "head",
        "ls",
        "mkdir",
        "mv",
        "restic",
        "rm",
        "sed",
        "tail",
        "wc",
    }
)
COMMAND_TIMEOUT_SECONDS = 120


def _page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _pages_with_commands() -> list[Path]:
    return [page for page in pages(ROOT) if read_page(page.read_text(encoding="utf-8"))]


def _environment(home: Path) -> dict[str, str]:
    """A plain terminal of fixed width with our program first on the path."""
    scripts = str(Path(sys.executable).parent)
    kept = {name: os.environ[name] for name in ("LANG", "NUMBA_CACHE_DIR") if name in os.environ}
    return {
        **kept,
        "PATH": scripts + os.pathsep + os.environ.get("PATH", ""),
        "HOME": str(home),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONUTF8": "1",
    }


def _run(command: Command, folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", command.text],
        cwd=folder,
        env=_environment(folder.parent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _make_targets(command: Command) -> list[str]:
    words = command.text.split("#")[0].split()
    return [word for word in words[1:] if "=" not in word]


def _check_make(command: Command) -> None:
    """A page names a make target only if CI runs it; running it here again would only cost time."""
    ci_script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in _make_targets(command):
        assert re.search(rf"\bmake {re.escape(target)}\b", ci_script), f"CI does not run: make {target}"


def _check_command(command: Command, folder: Path, where: str) -> None:
    code, output = _run(command, folder)
    assert code == command.exit_code, f"{where}: exit {code}, the page says {command.exit_code}\n{output}"
    if command.expected:
        promised = "\n".join(command.expected)
        assert output_matches(command.expected, output), (
            f"{where}: other output than the page shows.\n--- page ---\n{promised}\n--- program ---\n{output}"
        )


def assert_performed(item: Command | PageFile | Needs | WrongFence, folder: Path, page: str) -> None:
    match item:
        case WrongFence():
            pytest.fail(f"{page}:{item.line_number}: commands stand in a {item.info!r} fence; use 'console'")
        case Needs():
            if not (ROOT / item.path).exists():
                pytest.skip(f"{page}: {item.path} is not on this machine; what follows was not run")
            if not item.path.startswith(".."):
                (folder / item.path).parent.mkdir(parents=True, exist_ok=True)
                (folder / item.path).symlink_to(ROOT / item.path)
        case PageFile():
            target = folder / item.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(item.content, encoding="utf-8")
        case Command():
            where = f"{page}:{item.line_number}: {item.text}"
            first_word = item.text.split()[0]
            if first_word == "make":
                _check_make(item)
            else:
                assert first_word == "evac" or first_word in PLAIN_TOOLS, (
                    f"{where}: not a command that pages may show"
                )
                _check_command(item, folder, where)


def _end_what_goes_on(folder: Path) -> None:
    """A controller that a page started goes on while its run waits for a person: as it should, not here."""
    for told in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in told.read_bytes():
                os.kill(int(told.parent.name), signal.SIGKILL)


@pytest.fixture
def reader_folder(tmp_path: Path) -> Iterator[Path]:
    """Where a reader would stand: an empty folder with the real input beside it, as beside the project."""
    folder = tmp_path / "evac"
    folder.mkdir()
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (tmp_path / "shared").symlink_to(shared)
    yield folder
    _end_what_goes_on(folder)


@pytest.mark.parametrize("page", _pages_with_commands(), ids=_page_name)
def test_page_runs_as_shown(page: Path, reader_folder: Path) -> None:
    for item in read_page(page.read_text(encoding="utf-8")):
        assert_performed(item, reader_folder, _page_name(page))


def test_the_readme_shows_commands() -> None:
    items = read_page((ROOT / "README.md").read_text(encoding="utf-8"))
    assert any(isinstance(item, Command) for item in items)
