"""The benches measure the memory of their own process, whatever started it."""

import subprocess
import sys
from pathlib import Path

CHILD = "from bench.figures import peak_mib; print(peak_mib())"
PARENT = f"""
import subprocess, sys
held = bytes([1]) * (300 << 20)
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


def test_the_memory_of_a_parent_is_not_counted(project_root: Path) -> None:
    words = [sys.executable, "-c", PARENT]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=project_root)
    assert 1 < float(done.stdout) < 150
