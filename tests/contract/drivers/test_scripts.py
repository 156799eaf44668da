"""The scripts of the documentation keep the contract of drivers, against servers that answer as real ones."""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Thread
from typing import ClassVar

import pytest

from evac.cli import console
from evac.cli.main import run

pytestmark = pytest.mark.enable_socket
PASSWORD = "quiet-harbour-420"


class BigIp(BaseHTTPRequestHandler):
    """The members of one pool, as iControl REST shows and changes them."""

    members: ClassVar[dict[str, dict[str, str]]] = {}

    def do_GET(self) -> None:
        self._send({"kind": "tm:ltm:pool:members:memberscollectionstate", "items": [*self.members.values()]})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        member = self.members[self.path.rpartition("~Common~")[2]]
        member["session"] = {"user-enabled": "monitor-enabled"}.get(body["session"], body["session"])
        self._send(member)

    def _send(self, body: object) -> None:
        known = self.headers["Authorization"] == "Basic ZXZhYzpxdWlldC1oYXJib3VyLTQyMA=="
        data = json.dumps(body if known else {"code": 401}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def estate(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    BigIp.members = {
        name: {"name": name, "session": "monitor-enabled", "state": "up"}
        for name in ("web-fra:443", "web-muc:443")
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), BigIp)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("F5_SECRET", PASSWORD)
    program = json.dumps([sys.executable, str(project_root / "docs" / "how-to" / "scripts" / "f5.py")])
    keys = ("argv", "check_argv", "observe_argv", "undo_argv")
    settings = ", ".join(f"{key}: {program}" for key in keys)
    env = [
        f"F5_URL=http://127.0.0.1:{server.server_port}",
        "F5_POOL=~Common~shop",
        "F5_MEMBERS=fra=web-fra:443,muc=web-muc:443",
        "F5_USER=evac",
        "F5_PASSWORD=env:F5_SECRET",
    ]
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nservices: {shop: {sites: [fra, muc]}}\nendpoints:\n"
        "  shop-fra:\n    for: shop\n    at: fra\n    driver: command\n    settings:\n"
        f"      {{does: [shift, drain, ready], {settings}, env: {json.dumps(env)}}}\n"
    )
    yield tmp_path
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("words", [("drain",), ("shift", "--set", "to=muc", "--set", "away=fra")])
def test_the_script_for_an_f5_keeps_the_contract(
    estate: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "shift":
        BigIp.members["web-muc:443"]["session"] = "user-disabled"
    before = json.dumps(BigIp.members)
    code = run(["driver", "test", str(estate), "shop-fra", "--act", *words, "--output", "json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["passed"], len(found["tried"])) == (console.DONE, True, 10), found
    assert json.dumps(BigIp.members) == before, "undone"
    assert PASSWORD not in json.dumps(found)


def test_the_script_for_an_f5_leaves_the_last_member_alone(
    estate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BigIp.members["web-muc:443"]["session"] = "user-disabled"
    code = run(["driver", "test", str(estate), "shop-fra", "--act", "drain", "--output", "json"])
    found = json.loads(capsys.readouterr().out)
    assert code == console.FINDINGS
    assert "no member would be left with traffic" in json.dumps(found)
    assert BigIp.members["web-fra:443"]["session"] == "monitor-enabled"
    assert PASSWORD not in json.dumps(found)


@pytest.fixture
def edge(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The server of the documentation, and an estate whose traffic it moves."""
    state = tmp_path / "edge.json"
    state.write_text(json.dumps({"sites": {"fra": True, "muc": False}, "token": 0, "before": {}}))
    monkeypatch.setenv("EDGE_KEY", PASSWORD)
    monkeypatch.setenv("EDGE_FILE", str(state))
    monkeypatch.setenv("EDGE_PORT", "0")
    program = str(project_root / "docs" / "how-to" / "scripts" / "edge.py")
    server = Popen([sys.executable, program], stdout=PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nservices: {shop: {sites: [fra, muc]}}\nendpoints:\n"
        "  shop-fra: {for: shop, at: fra, driver: http, settings: {does: [shift, drain, ready],\n"
        f"    url: 'http://127.0.0.1:{port}/', secret: 'env:EDGE_KEY'}}}}\n"
    )
    yield tmp_path
    server.kill()
    server.communicate()


def test_the_server_of_an_edge_keeps_the_contract(
    edge: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(*words: str) -> tuple[int, str]:
        code = run(["driver", "test", str(edge), "shop-fra", "--act", *words, "--output", "json"])
        return code, capsys.readouterr().out

    assert tried("drain")[0] == console.FINDINGS, "the last site is drained"
    code, said = tried("shift", "--set", "to=muc", "--set", "away=fra")
    assert (code, len(json.loads(said)["tried"])) == (console.DONE, 10), said
    assert json.loads((edge / "edge.json").read_text())["sites"] == {"fra": True, "muc": False}, "undone"
    monkeypatch.setenv("EDGE_KEY", "another key")
    code, said = tried("ready", "--set", "site=muc")
    assert code == console.FINDINGS
    assert "http-refused" in said
    assert PASSWORD not in said
