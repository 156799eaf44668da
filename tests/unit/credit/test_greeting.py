"""A database of accounts that greets with nonsense is unavailable: no traceback."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

pytest.importorskip("asyncpg")

from evac.app.credit import intake
from evac.model.errors import EvacError
from tests.unit.drivers.test_postgres_greeting import WITHOUT_A_VERSION

pytestmark = pytest.mark.enable_socket


def test_accounts_of_a_server_that_greets_with_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_PASSWORD", "quiet-harbour-417")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(8, socket.MSG_WAITALL)
                link.sendall(b"N")
                link.recv(65_536)
                link.sendall(WITHOUT_A_VERSION)
                while link.recv(65_536):
                    pass

        served = threading.Thread(target=serve, daemon=True)
        served.start()
        port = server.getsockname()[1]
        database = intake.Database("127.0.0.1", port, "postgres", "evac", "env:BILLING_PASSWORD")
        with pytest.raises(EvacError) as refused:
            intake.fetch(database, "accounts", tmp_path / "a.parquet")
        assert refused.value.code == "accounts-unavailable"
        served.join()
