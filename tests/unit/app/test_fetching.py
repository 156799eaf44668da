"""Servers as sources, asked over real HTTP: pages, patience, and refusals with the next step."""

import contextlib
import email.utils
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from evac.app.fetching import fetch, servers
from evac.cli import console
from evac.cli.main import run
from evac.cli.program import cli
from evac.estate import load
from evac.model.errors import InvalidInput

pytestmark = pytest.mark.enable_socket


def vector(*samples: tuple[dict[str, str], str]) -> dict[str, Any]:
    result = [{"metric": labels, "value": [1_790_000_000, value]} for labels, value in samples]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def pod(name: str, namespace: str = "prod") -> dict[str, str]:
    return {"namespace": namespace, "pod": name}


PEAKS = {
    "container_cpu": vector(
        (pod("shop-6d4b75cb6d-abcde"), "0.2501"),
        (pod("shop-6d4b75cb6d-fghij"), "0.75"),
        (pod("db-0"), "1.5"),
        (pod("odd"), "NaN"),
    ),
    "container_memory": vector((pod("shop-6d4b75cb6d-abcde"), "1.073741824e+09")),
    "traces_service": vector(
        ({"client": "shop", "server": "db"}, "12"), ({"client": "user", "server": "shop"}, "9")
    ),
}


POWER: dict[str, list[dict[str, Any]]] = {
    "/api/dcim/power-feeds/": [
        {
            "id": 1,
            "url": "http://127.0.0.1/api/dcim/power-feeds/1/",
            "power_panel": {"id": 1, "name": "A", "comments": "code of the door: 1234"},
            "rack": {"id": 3, "name": "R3"},
            "status": {"value": "active"},
        }
    ],
    "/api/dcim/power-ports/": [],
}


class Server(BaseHTTPRequestHandler):
    """Answers as Prometheus and NetBox do."""

    status: ClassVar[int] = 0
    busy: ClassVar[int] = 0
    seen: ClassVar[list[str]] = []
    rules: ClassVar[list[Any]] = []
    """Groups of recording rules of a server that does not keep the raw series."""
    odd: ClassVar[str] = ""
    """How a page is given that is not as it should be."""
    page_most: ClassVar[int] = 1_000
    locations_status: ClassVar[int] = 200
    """Whether locations are given."""
    machines_status: ClassVar[int] = 200
    """Whether virtual machines are given."""
    power_status: ClassVar[int] = 200
    """Of power feeds and power ports below the paths `power_refused`."""
    power_refused: ClassVar[tuple[str, ...]] = ()
    ended: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        Server.seen.append(self.headers.get("Authorization", ""))
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if Server.odd:
            self._odd(Server.odd)
        elif Server.busy:
            Server.busy -= 1
            self._send(429, {}, {"Retry-After": "7"})
        elif Server.status:
            self._send(Server.status, {}, {"Location": "http://elsewhere.example/"})
        elif url.path == "/api/v1/rules":
            self._send(200 if Server.rules else 404, {"status": "success", "data": {"groups": Server.rules}})
        elif url.path == "/api/v1/query" and Server.rules:
            known = {
                "max_over_time((sum by (namespace, pod) (pod:cpu:rate5m))[7d:5m])": PEAKS["container_cpu"]
            }
            self._send(200, known.get(query["query"][0], vector()))
        elif url.path == "/api/v1/query":
            self._send(200, next(body for name, body in PEAKS.items() if name in query["query"][0]))
        elif url.path == "/api/virtualization/virtual-machines/" and Server.machines_status != 200:
            self._send(Server.machines_status, {})
        elif url.path == "/api/virtualization/virtual-machines/":
            machine = {"name": "vm", "vcpus": 2, "device": {"id": 7}, "role": {"slug": "shop"}}
            self._send(200, {"next": None, "results": [machine]})
        elif url.path == "/api/dcim/locations/" and Server.locations_status != 200:
            self._send(Server.locations_status, {})
        elif url.path == "/api/dcim/locations/":
            found = [
                {"id": n, "slug": f"room-{n}", "site": {"slug": "fra"}, "parent": {"id": 9}} for n in (1, 2)
            ]
            around = {"id": 9, "slug": "house", "site": {"slug": "fra"}, "parent": None}
            self._send(200, {"next": None, "results": [*found, around]})
        elif url.path in Server.power_refused and Server.power_status != 200:
            self._send(Server.power_status, {})
        elif url.path in POWER:
            self._send(200, {"next": None, "results": POWER[url.path]})
        else:
            first, count = int(query.get("offset", ["0"])[0]), min(int(query["limit"][0]), Server.page_most)
            numbers = range(first, min(first + count, 450))
            more = {
                "site": {"slug": "fra"},
                "custom_fields": {"cpu_cores": 8, "notes": "root password: 1234"},
            }
            results = [{"id": n, "name": f"srv-{n}", "location": {"id": 1 + n % 2}, **more} for n in numbers]
            results = [{**one, "rack": {"id": 3, "name": "R3"}} if one["id"] == 0 else one for one in results]
            self._send(200, {"next": "x" if first + count < 450 else None, "results": results})

    def _odd(self, how: str) -> None:
        page = {"next": "x", "results": [{"name": f"srv-{len(Server.seen)}", "site": {"slug": "fra"}}]}
        match how:
            case "empty pages for ever":
                self._send(200, {**page, "results": []})
            case "pages for ever":
                self._send(200, page)
            case "refuses the second page":
                self._send(200 if len(Server.seen) == 1 else 500, page)
            case "a page of words":
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(b"<html>sign in</html>")
            case "ends early":
                self.send_response(200)
                self.send_header("Content-Length", "5000")
                self.end_headers()
                self.wfile.write(json.dumps(page).encode())
            case _:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):  # until the other side goes away
                    while not Server.ended.wait(0.01):  # a byte now and then, so that no single read is late
                        self.wfile.write(b" ")

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: tests read what is returned."""


@pytest.fixture
def server() -> Iterator[str]:
    Server.status, Server.busy, Server.seen, Server.rules = 0, 0, [], []
    Server.odd, Server.page_most, Server.machines_status, Server.power_status = "", 1_000, 200, 200
    Server.locations_status = 200
    Server.ended.clear()
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    Server.ended.set()
    running.shutdown()
    running.server_close()
    thread.join()


def test_peaks_are_demands_and_calls_are_needs(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROM", "s3cret")
    words = ["import", "prometheus", server, "-o", str(tmp_path / "estate"), "--token", "env:PROM"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    services = {s.id: s for s in load(tmp_path / "estate").services}
    assert services["shop"].demand[:2] == (750, 1_024), "the highest of its pods"
    assert services["db"].demand[0] == 1_500
    assert [need.target for need in services["shop"].needs] == ["db"]
    assert sorted(services) == ["db", "shop"]
    assert set(Server.seen) == {"Bearer s3cret"}
    written = "".join(path.read_text() for path in (tmp_path / "estate").iterdir())
    assert "s3cret" not in written


CPU = "container_cpu_usage_seconds_total"
JOINED = "* on (cluster, pod) group_left(node) topk by (pod) (1, max by (pod) (kube_pod_info{node!=''}))"
SUMMED = "sum by (cluster, namespace, pod, container) ("


@pytest.mark.parametrize(
    ("query", "counts"),
    [
        (f"{SUMMED}rate({CPU}[5m]))", True),
        (f'{SUMMED}irate({CPU}{{job="kubelet", path="/metrics/a+b"}}[5m])) {JOINED}', True),
        (f"sum by (namespace) (rate({CPU}[5m]))", False),
        (f"{SUMMED}rate({CPU}[5m])) / 4", False),
        (f"{SUMMED}rate({CPU}[5m]) * 100)", False),
        (f"{SUMMED}{CPU})", False),
        ("sum by (namespace, pod) (kube_pod_container_resource_limits)", False),
    ],
)
def test_recording_rules_say_what_the_raw_series_do_not(
    server: str, tmp_path: Path, query: str, counts: bool
) -> None:
    other = {"type": "recording", "name": "pod:cpu:other", "query": f"{SUMMED}rate({CPU}[1m]))"}
    rules = [other, {"type": "recording", "name": "pod:cpu:rate5m", "query": query}, {"type": "alerting"}, 7]
    Server.rules = [{"name": "k8s", "rules": rules}, "odd"]
    done = CliRunner().invoke(cli, ["import", "prometheus", server, "-o", str(tmp_path / "estate")])
    assert done.exit_code == 0, done.output
    services = {s.id: s for s in load(tmp_path / "estate").services}
    assert [services[name].demand[:2] for name in ("shop",) if name in services] == [(750, None)] * counts


@pytest.mark.parametrize(("status", "said"), [(200, False), (403, True), (404, True)])
def test_netbox_is_read_page_by_page(server: str, tmp_path: Path, status: int, said: bool) -> None:
    """A token that may not read virtual machines still reads devices; the import says what is left out."""
    Server.machines_status = status
    done = CliRunner().invoke(cli, ["import", "netbox", server, "-o", str(tmp_path / "estate")])
    assert done.exit_code == 0, done.output
    estate = load(tmp_path / "estate")
    assert len(estate.fleet) == 450
    assert [(one.id, one.replicas) for one in estate.services] == [("shop", 1)] * (not said)
    assert [(group.id, len(group.members)) for group in estate.groups] == [("fra.house", 2)]
    assert estate.fleet.capacity[:, 0].tolist() == [8_000] * 450
    assert len(Server.seen) == 10 + (not said)
    assert [(rack.id, rack.feeds) for rack in estate.racks] == [("fra/room-1/R3", ("fra/A",))]
    assert ("did not let this token read virtual machines" in done.output) == said


@pytest.mark.parametrize(("status", "said"), [(403, True), (404, False)])
def test_locations_that_a_token_may_not_read_are_reported(
    server: str, tmp_path: Path, status: int, said: bool
) -> None:
    """An old NetBox without locations has nothing to allow."""
    Server.locations_status = status
    done = CliRunner().invoke(cli, ["import", "netbox", server, "-o", str(tmp_path / "estate")])
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "estate").groups == ()
    assert ("did not let this token read locations" in done.output) == said


@pytest.mark.parametrize(("status", "said"), [(403, True), (404, False)])
@pytest.mark.parametrize("refused", [tuple(POWER)[:1], tuple(POWER)[1:], tuple(POWER)])
def test_power_that_a_token_may_not_read_is_reported(
    server: str, tmp_path: Path, status: int, said: bool, refused: tuple[str, ...]
) -> None:
    Server.power_status, Server.power_refused = status, refused
    done = CliRunner().invoke(cli, ["import", "netbox", server, "-o", str(tmp_path / "estate")])
    assert done.exit_code == 0, done.output
    no_feeds, no_ports = (path in refused for path in POWER)
    assert (load(tmp_path / "estate").feeds == ()) == no_feeds
    assert ("did not let this token read power feeds: feeds of racks" in done.output) == (said and no_feeds)
    assert ("did not let this token read power ports: servers with" in done.output) == (said and no_ports)


@pytest.mark.parametrize("most", [1, 7, 50, 1_000])
def test_pages_smaller_than_asked_for_leave_no_device_out(server: str, tmp_path: Path, most: int) -> None:
    """A NetBox gives as many as its own MAX_PAGE_SIZE allows, whatever it is asked for."""
    Server.page_most = most
    devices = json.loads(fetch("netbox", server, tmp_path).read_text())["devices"]
    assert [one["name"] for one in devices] == [f"srv-{n}" for n in range(450)]


@pytest.mark.parametrize("kind", ["netbox", "prometheus"])
@pytest.mark.parametrize(
    "odd",
    [
        *("empty pages for ever", "pages for ever", "refuses the second page", "a page of words"),
        *("ends early", "never ends"),
    ],
)
def test_a_server_that_never_ends_or_breaks_off_is_refused_and_nothing_written(
    server: str,
    tmp_path: Path,
    kind: str,
    odd: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Server.odd = odd
    monkeypatch.setattr(servers, "PAGES_MAX", 20)
    monkeypatch.setattr(servers, "TIMEOUT_S", 1.0)
    assert run(["import", kind, server, "-o", str(tmp_path / "estate")]) == console.USAGE
    assert "next: " in capsys.readouterr().err
    assert not (tmp_path / "estate").exists()
    assert len(Server.seen) <= servers.PAGES_MAX + 10


def test_patience_is_stated_in_seconds_or_as_a_date() -> None:
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    assert servers.patience_s(soon) == servers.WAIT_S_MAX
    assert servers.patience_s("9" * 400) == servers.WAIT_S_MAX
    assert [servers.patience_s(words) for words in ("", "soon", "-5", "0")] == [1.0] * 4
    assert servers.patience_s("7") == 7.0


def test_a_busy_server_gets_the_patience_it_asks_for(server: str, tmp_path: Path) -> None:
    waited: list[float] = []
    Server.busy = 2
    fetch("netbox", server, tmp_path, sleep=waited.append)
    assert waited == [7.0, 7.0]
    Server.busy = 99
    with pytest.raises(InvalidInput, match="too busy"):
        fetch("netbox", server, tmp_path, sleep=waited.append)


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "--token"), (403, "read access"), (404, "address"), (302, "use its address"), (500, "log")],
)
def test_a_refusal_says_what_to_do_and_writes_nothing(
    server: str, tmp_path: Path, status: int, words: str
) -> None:
    Server.status = status
    with pytest.raises(InvalidInput) as caught:
        fetch("prometheus", server, tmp_path)
    assert str(status) in caught.value.message
    assert words in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_no_server_a_wrong_kind_and_an_answer_without_an_end(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match="cannot reach"):
        fetch("netbox", "http://127.0.0.1:9", tmp_path)
    with pytest.raises(InvalidInput, match="cannot be imported from a server"):
        fetch("csv", server, tmp_path)
    monkeypatch.setattr(servers, "ANSWER_BYTES_MAX", 10)
    with pytest.raises(InvalidInput, match="more than"):
        fetch("netbox", server, tmp_path)


def test_a_token_goes_to_no_other_machine_in_plain_text(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.0.0.0 leads to this machine, but nothing says so: it stands for any other address."""
    monkeypatch.setenv("PROM", "quiet-harbour-418")
    other = server.replace("127.0.0.1", "0.0.0.0")
    words = ["import", "prometheus", other, "-o", str(tmp_path / "estate")]
    before = len(Server.seen)
    refused = CliRunner().invoke(cli, [*words, "--token", "env:PROM"])
    assert isinstance(refused.exception, InvalidInput)
    assert refused.exception.code == "server-plain"
    assert len(Server.seen) == before
    assert not (tmp_path / "estate").exists()
    done = CliRunner().invoke(cli, [*words, "--output", "json"])
    assert done.exit_code in (console.DONE, console.PARTIAL), done.output
    assert "import-unverified" in done.output
    words[2] = server
    assert "import-unverified" not in CliRunner().invoke(cli, [*words, "--output", "json"]).output


def test_a_proxy_reads_no_token(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROM", "quiet-harbour-418")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch("prometheus", server, tmp_path, "env:PROM").exists()
