"""DBOS, Temporal's local server and Prefect at the same work, no-op durable steps, on this machine.

They live in `.venv-bench` (`make bench-referees`) and are never dependencies. Each runs in a process of its
own for a bounded time, in several set-ups, and the best one counts. What cannot run here is named with the
reason.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, Table
from evac.model.errors import EvacError
from evac_lab.process import Process, ServerFailed
from evac_lab.servers import postgres

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
TEMPORAL = PYTHON.with_name("temporal")
STEPS = 1_000
SECONDS = 15.0
"""Of one set-up; who is slower than STEPS in that time is measured by what it has done."""
_START_SECONDS = 90.0
_SIDE_BY_SIDE = (1, 16)


@dataclass(frozen=True, slots=True)
class Peer:
    """One engine over one store. measure: (folder, steps) -> set-up and what its script said, each in turn.

    keeps: what is on disk of a step when the next one begins, where that is less than ours.
    """

    name: str
    words: str
    keeps: str
    measure: Callable[[Path, int], Iterator[tuple[str, dict[str, object]]]]


class PeerFailed(Exception):
    """A peer could not be measured here. The message says why."""


def compare(table: Table, ours: float | None, steps: int = STEPS) -> None:
    """Measures every peer; ours: steps a second of evac in the same run, for the ratio."""
    if not PYTHON.exists():
        table.trouble("DBOS, Temporal, Prefect: not installed here (make bench-referees)")
        return
    for peer in PEERS:
        with _folder() as folder:
            try:
                table.add(_best(peer, list(peer.measure(folder, steps)), ours))
            except (PeerFailed, EvacError) as error:
                table.add(Figure(f"peer_{peer.name}", peer.words, None, "steps/s"))
                table.trouble(f"{peer.words} could not be measured here: {error}")


def _best(peer: Peer, found: Sequence[tuple[str, dict[str, object]]], ours: float | None) -> Figure:
    rates = [float(str(answer["steps_per_second"])) for _, answer in found]
    best = max(range(len(rates)), key=lambda row: rates[row])
    ratio = f"ours is {ours / rates[best]:,.0f} times that; " if ours else ""
    each = ", ".join(f"{setup}: {rate:,.0f}" for (setup, _), rate in zip(found, rates, strict=True))
    return Figure(
        f"peer_{peer.name}",
        f"{peer.words} {found[best][1]['version']}",
        rates[best],
        "steps/s",
        note=f"{ratio}{each}" + (f"; {peer.keeps}" if peer.keeps else ""),
        samples=tuple(rates),
    )


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that the user of PostgreSQL may reach."""
    path = Path(tempfile.mkdtemp(prefix="evac-peer-", dir=os.environ.get("EVAC_BENCH_FOLDER")))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _run(
    script: str, *arguments: object, folder: Path, env: dict[str, str] | None = None
) -> dict[str, object]:
    """The last JSON line that a peer's script prints. Its whole family ends with it."""
    argv = (str(PYTHON), str(HERE / script), *(str(one) for one in arguments))
    process = Process(script, argv, folder / "stderr", cwd=folder, env=dict(env or {}))
    output = folder / "stdout"
    process.argv = ("/bin/sh", "-c", 'out="$1"; shift; exec "$@" >"$out"', "sh", str(output), *argv)
    process.start()
    assert process.popen is not None
    try:
        code = process.popen.wait(timeout=SECONDS + _START_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"it did not end in {SECONDS + _START_SECONDS:g} s") from error
    finally:
        process.kill()
    lines = [line for line in output.read_text("utf-8", "replace").splitlines() if line.startswith("{")]
    if not lines:
        raise PeerFailed(f"it ended with {code}: {process.last_lines(3)}")
    answer: dict[str, object] = json.loads(lines[-1])
    return answer


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def _dbos_sqlite(folder: Path, steps: int) -> Iterator[tuple[str, dict[str, object]]]:
    for workflows in _SIDE_BY_SIDE:
        url = f"sqlite:///{folder}/dbos-{workflows}.db"
        yield _side_by_side(workflows), _run("peer_dbos.py", url, steps, workflows, SECONDS, folder=folder)


def _dbos_postgres(folder: Path, steps: int) -> Iterator[tuple[str, dict[str, object]]]:
    server = postgres.primary(folder / "postgres", "127.0.0.1", _free_port(), "peer")
    try:
        server.start()
        for workflows in _SIDE_BY_SIDE:
            server.sql(f"CREATE DATABASE dbos{workflows}")
            at = f"{postgres.USER}:{server.password}@{server.host}:{server.port}"
            url = f"postgresql://{at}/dbos{workflows}"
            yield (
                _side_by_side(workflows),
                _run("peer_dbos.py", url, steps, workflows, SECONDS, folder=folder),
            )
    finally:
        server.kill()


def _temporal(folder: Path, steps: int) -> Iterator[tuple[str, dict[str, object]]]:
    if not TEMPORAL.exists():
        raise PeerFailed("its local server is not installed (make bench-referees)")
    port = _free_port()
    argv = (
        str(TEMPORAL),
        "server",
        "start-dev",
        "--headless",
        "--ip",
        "127.0.0.1",
        "--port",
        str(port),
        "--db-filename",
        str(folder / "temporal.db"),
        "--log-level",
        "error",
    )
    server = Process("temporal", argv, folder / "temporal.log", cwd=folder)
    server.start()
    try:
        server.wait_until(lambda: _listens(port), 30.0, 0.2)
        for workflows in _SIDE_BY_SIDE:
            answer = _run("peer_temporal.py", f"127.0.0.1:{port}", steps, workflows, SECONDS, folder=folder)
            yield _side_by_side(workflows), answer
    except ServerFailed as error:
        raise PeerFailed(str(error)) from error
    finally:
        server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(0.5)
        return one.connect_ex(("127.0.0.1", port)) == 0


def _prefect(folder: Path, steps: int) -> Iterator[tuple[str, dict[str, object]]]:
    env = {
        "PREFECT_HOME": str(folder),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    for at_once in (16, 64):
        answer = _run("peer_prefect.py", steps, at_once, SECONDS, folder=folder, env=env)
        yield f"{at_once} at once", answer


def _side_by_side(workflows: int) -> str:
    return "1 workflow" if workflows == 1 else f"{workflows} workflows"


PEERS = (
    Peer("dbos_sqlite", "DBOS on SQLite", "one record a step", _dbos_sqlite),
    Peer("dbos_postgres", "DBOS on PostgreSQL", "one record a step", _dbos_postgres),
    Peer("temporal", "Temporal's local server", "", _temporal),
    Peer("prefect", "Prefect", "results in files, states sent later", _prefect),
)
