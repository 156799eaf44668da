"""Waiting, bounded, for servers of the lab to be ready; who waits says for what."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

from evac_lab.state import LabError


def takes_connections(host: str, port: int, timeout_s: float = 0.5) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


def answers(url: str, timeout_s: float = 0.5, line: ssl.SSLContext | None = None) -> bool:
    """Whether a URL answers with 200. line: of https."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=timeout_s, context=line) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except (OSError, ValueError):
        return False


def wait_for(ready: Callable[[], bool], timeout_s: float, what: str, pause_s: float = 0.05) -> None:
    """Waits for something that no one process stands for. Raises `LabError` when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(
                "lab-slow", f"{what} took more than {timeout_s:g} s", "see the logs in the lab's folder"
            )
        time.sleep(pause_s)
