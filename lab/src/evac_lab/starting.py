"""Starting processes of the lab so that any later command finds them: marked, recorded, then let go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from evac_lab import proc_table
from evac_lab.process import Process, ServerFailed
from evac_lab.state import LabFolder, LabState, Running

Progress = Callable[[float, str], None]
"""(share done, words)."""


class Starter:
    """Starts processes, from several threads at once, and writes each into the state at once.

    Ends no process: who started the lab may be gone long before it.
    """

    def __init__(self, folder: LabFolder, state: LabState, progress: Progress, steps: int = 0) -> None:
        self.folder = folder
        self._state = state
        self._progress = progress
        self._steps = max(1, steps)
        self._done = 0
        self._lock = threading.Lock()
        self._started: list[Process] = []

    @property
    def state(self) -> LabState:
        with self._lock:
            return self._state

    def change(self, **values: object) -> None:
        """Changes what is remembered, and writes it."""
        with self._lock:
            self._state = replace(self._state, **values)  # type: ignore[arg-type]
            self.folder.write(self._state)

    def launch(self, site: str, role: str, process: Process) -> Process:
        """Starts it and remembers it; does not wait until it is ready."""
        process.env = {**process.env, proc_table.MARK: f"{self.folder.mark}{site}"}
        process.start()
        running = Running(
            site,
            role,
            process.pid,
            proc_table.started(process.pid),
            process.argv,
            str(process.log),
            process.user,
            process.prefix,
            str(process.cwd or ""),
            dict(process.env),
        )
        with self._lock:
            self._started.append(process)
            self._state = self._state.with_process(running)
            self.folder.write(self._state)
        return process

    def wait(
        self, process: Process, ready: Callable[[], bool], timeout_s: float = 20.0, words: str = ""
    ) -> None:
        """Waits until it is ready. Raises `ServerFailed` with the end of its log."""
        process.wait_until(ready, timeout_s)
        self.tell(words or process.name)

    def tell(self, words: str) -> None:
        """One more step is done."""
        with self._lock:
            self._done += 1
            share = min(1.0, self._done / self._steps)
        self._progress(share, words)

    def let_go(self) -> None:
        """From here on they are not our children to wait for; they live on when this command ends."""
        for process in self._started:
            if process.popen is not None and process.popen.returncode is None:
                process.popen.returncode = 0
        self._started.clear()

    def check(self) -> None:
        """Raises `ServerFailed` for the first process that ended by itself."""
        for process in self._started:
            if not process.alive:
                raise ServerFailed("server-failed", f"{process.name} ended: {process.last_lines()}")
