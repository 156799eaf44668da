"""What every server of one process can be told to do."""

from __future__ import annotations

import signal as signals

from evac_lab.process import Process


class OneProcess:
    """A server that is one process and nothing else."""

    __slots__ = ()
    process: Process

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL; returns when the pid is gone, because its ports stay bound until then."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections are still taken by the kernel, nothing answers."""
        self.process.signal(signals.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signals.SIGCONT)
