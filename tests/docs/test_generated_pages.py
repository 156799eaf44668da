"""Pages that are written from the program are as fresh as the program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_command_line_pages_are_fresh(project_root: Path) -> None:
    command = [sys.executable, "scripts/cli_reference.py", "--check"]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_pictures_of_states_are_fresh(project_root: Path) -> None:
    command = [sys.executable, "scripts/run_diagram.py", "--check"]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_openapi_document_is_fresh(project_root: Path) -> None:
    command = [sys.executable, "scripts/openapi.py", "--check"]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
