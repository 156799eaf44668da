"""Commands through a controller's war room and straight to the store: the same words, data and exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_socket

from evac.app.access import TOKEN_PREFIX, digest_of
from evac.cli.program import run as program
from evac.engine.runs.signatures import new_key
from tests.e2e.test_embedded_run import ESTATE
from tests.web.conftest import free_port, until_ready
from tests.web.rooms import until

pytestmark = pytest.mark.slow
TOKENS = {role: f"{TOKEN_PREFIX}{role}-of-a-test-0123456789" for role in ("admin", "viewer")}
MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| UTC)?|\b\d{13}(-[0-9a-f]{12})?\b|\b\d+ (m?s|min)\b"
    r"|\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000"
)
TRIES = 20
SEEN = ("promote:db", "--seen", "primary=anyang")
WAY = re.compile(r" --(store|server) \S+| (--estate )?ESTATE\b")
LENGTHS = re.compile(r'"(at_ms|value|down_ms|events)": \d+')


@dataclass(frozen=True)
class Ways:
    """Of one controller with its room."""

    folder: Path
    store: str
    server: str

    def to(self, way: str) -> tuple[str, ...]:
        return ("--store", self.store) if way == "store" else ("--server", self.server)


@contextlib.contextmanager
def room(folder: Path) -> Iterator[Ways]:
    pytest_socket.enable_socket()
    (folder / "estate").mkdir()
    (folder / "estate" / "estate.yaml").write_text(ESTATE)
    tokens = "".join(
        f"  {role}: {{role: {role}, of: kim, hash: 'sha256:{digest_of(text)}'}}\n"
        for role, text in TOKENS.items()
    )
    people = f"people: {{kim: {{role: admin, key: '{new_key(folder / 'kim.key')}'}}}}\n"
    (folder / "access.yaml").write_text(f"{people}tokens:\n{tokens}")
    assert (
        program(
            [
                "plan",
                str(folder / "estate"),
                "--lose",
                "pangyo",
                "--budget",
                "0s",
                "-q",
                "-o",
                str(folder / "p"),
            ]
        )
        == 0
    )
    port, store = free_port(), f"sqlite:{folder / 'runs.sqlite'}"
    command = [sys.executable, "-m", "evac", "serve", str(folder / "estate"), "--site", "local", "--no-watch"]
    command += ["--store", store, "--listen", f"127.0.0.1:{port}", "--access", str(folder / "access.yaml")]
    process = subprocess.Popen(command, env={**os.environ, "EVAC_WHO": "kim"}, stderr=subprocess.DEVNULL)
    try:
        until_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield Ways(folder, store, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(60)
        pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with room(tmp_path_factory.mktemp("ways")) as made:
        yield made


@dataclass
class Said:
    code: int
    out: str
    words: str


class Evac:
    """Runs commands in this process. way: through what."""

    def __init__(self, ways: Ways, capsys: pytest.CaptureFixture[str]) -> None:
        self.ways, self._capsys = ways, capsys

    def __call__(self, way: str, *words: str) -> Said:
        self._capsys.readouterr()
        code = program([*words, *self.ways.to(way)])
        told = self._capsys.readouterr()
        assert "Traceback" not in told.err
        return Said(code, told.out, told.err)

    def alike(self, *words: str, here: tuple[str, ...] = ()) -> Said:
        """The answer both ways, which has to be one, times and lengths of time aside. The world moves:
        between two looks something may have happened, and a room looks once a second. here: what only a
        store is asked with.
        """
        for _ in range(TRIES):
            one, other = self("server", *words), self("store", *words, *here)
            for word in here:  # the next command names the estate that only one of them has
                other = replace(other, words=other.words.replace(f" {word}", ""))
            if same(one, other):
                return one
            time.sleep(0.5)
        assert (one.code, plain(one.out), plain(one.words)) == (
            other.code,
            plain(other.out),
            plain(other.words),
        )
        return one


def same(one: Said, other: Said) -> bool:
    told = [(said.code, plain(said.out), plain(said.words)) for said in (one, other)]
    return told[0] == told[1]


def plain(text: str) -> str:
    return re.sub(r" +", " ", WAY.sub("", LENGTHS.sub("", MOMENT.sub("", text))))


@pytest.fixture
def evac(ways: Ways, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Evac]:
    pytest_socket.enable_socket()
    for name, value in {"EVAC_TOKEN": TOKENS["admin"], "EVAC_WHO": "kim", "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)
    yield Evac(ways, capsys)
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture(scope="module")
def fire(ways: Ways) -> str:
    return begun(ways)


def begun(ways: Ways) -> str:
    """An incident whose run waits at its first fence, begun through the server and approved in the store."""
    pytest_socket.enable_socket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAC_TOKEN", TOKENS["admin"])
        patch.setenv("EVAC_WHO", "kim")
        apply = [
            "apply",
            str(ways.folder / "p"),
            "--execute",
            "--reason",
            "fire",
            "--incident",
            "fire-1",
            "-q",
        ]
        assert program([*apply, *ways.to("server")]) == 2, "the site is not confirmed"
        assert program([*apply, "--confirm", "pangyo", "--detach", *ways.to("server")]) == 13
        approve = ["approve", "fire-1", "--reason", "agreed", "-q", *ways.to("store")]
        assert program(approve) == 10, "people are told apart here: a typed name is nothing"
        assert program([*approve, "--key", str(ways.folder / "kim.key")]) == 0
    until(lambda: _is_running(ways), "it runs")
    return "fire-1"


def _is_running(ways: Ways) -> bool:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        program(["run", "show", "fire-1", "--output", "json", *ways.to("store")])
    return bool(json.loads(said.getvalue())["state"] == "running")


def test_the_same_is_read_both_ways(evac: Evac, fire: str, ways: Ways) -> None:
    shown = json.loads(evac.alike("run", "show", fire, "--output", "json").out)
    assert {step["id"] for step in shown["steps"][:2]} == {"fence:db", "start:web:base:1"}
    assert "then attest fence:db" in evac.alike("run", "show", fire).out
    for words in (
        ("run", "list"),
        ("run", "list", "--output", "json"),
        ("run", "events", fire),
        ("run", "events", fire, "--output", "text"),
        ("run", "verify", fire),
        ("run", "verify"),
        ("run", "quarantine", fire),
        ("run", "quarantine", fire, "--output", "csv"),
        ("run", "quarantine", fire, "--output", "html"),
        ("drawer", "list"),
        ("status",),
        ("status", "--output", "json"),
        ("incident", "list"),
        ("incident", "list", "--output", "json"),
        *(
            ("incident", paper, fire, "--output", form)
            for paper in ("show", "timeline", "report")
            for form in ("text", "json", "markdown", "html")
        ),
        ("incident", "timeline", fire, "--all"),
    ):
        proved = 18 if words[:2] == ("run", "verify") else 0  # no heads kept elsewhere are asked for
        assert evac.alike(*words).code == proved, words
    estate = str(ways.folder / "estate")
    assert evac.alike("what-if", "pangyo", here=("--estate", estate)).code == 0
    refused = evac.alike("apply", str(ways.folder / "p"), here=(estate,))
    assert refused.code == 4
    assert "site-left" in refused.words, "the fire has its run"
    told = evac("server", "incident", "timeline", fire).out
    assert re.search(r"created for loss of pangyo by kim \([a-z- ]+\): fire", " ".join(told.split()))
    digest = shown["plan_digest"]
    assert evac.alike("drawer", "get", digest[:19]).out == (ways.folder / "p").read_text()
    files = []
    for way in ("server", "store"):
        target = ways.folder / f"status-{way}"
        own = () if way == "server" else (estate,)
        assert evac(way, "incident", "status-page", *own, "-o", str(target)).code == 0
        files.append({one.name: plain(one.read_text()) for one in target.iterdir()})
    assert files[0] == files[1]
    assert files[0].keys() == {"index.html", "feed.xml", "status.json"}


def test_the_next_command_goes_the_same_way(evac: Evac, fire: str, ways: Ways) -> None:
    for way in ("server", "store"):
        option = " ".join(ways.to(way))
        again = re.escape(option)
        assert re.search(rf"next: evac run show {fire}-\w+ {again}\n", evac(way, "status").out)
        assert re.search(rf"next: evac run \w+ {fire}.* {again}\n", evac(way, "run", "show", fire).out)
        assert evac(way, "run", "show", "nothing").words.endswith(f"next: evac run list {option}\n")
    plan = str(ways.folder / "p")
    refused = until(lambda: evac("server", "apply", plan).words, "the leader has published the mark")
    assert f"is lost already by {fire}-" in refused
    assert f"--server {ways.server}" in refused


def test_the_same_is_refused_both_ways(evac: Evac, fire: str, ways: Ways) -> None:
    for code, words in (
        (1, ("run", "show", "nothing")),
        (1, ("incident", "show", "nothing")),
        (2, ("drawer", "get", "sha256:000000000000")),
        (1, ("incident", "note", "nothing", "words")),
        (2, ("incident", "note", fire, "", "--kind", "update")),
        (2, ("incident", "note", fire, "--kind", "fact", "--name", "weather", "--value", "wet")),
        (10, ("run", "retry", fire, "fence:db", "--reason", "again")),
        (10, ("run", "skip", fire, "nothing", "--reason", "no such step")),
        (1, ("run", "pause", "nothing", "--reason", "why")),
    ):
        key = ("--key", str(ways.folder / "kim.key")) if words[1] in ("retry", "skip") else ()
        said = evac.alike(*words, here=key)
        assert said.code == code, (words, said)
        assert "next:" in said.words
    assert evac.alike("what-if", "mars", here=("--estate", str(ways.folder / "estate"))).code == 2


@pytest.mark.parametrize("by", ["option", "environment"])
def test_what_a_server_would_not_read_is_refused(
    by: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = "http://127.0.0.1:9"
    named = ["--server", server] if by == "option" else []
    if by == "environment":
        monkeypatch.setenv("EVAC_SERVER", server)
    for option, words in (
        ("ESTATE", ["apply", "p", "estate"]),
        ("--policy", ["apply", "p", "--policy", "policy.yaml"]),
        ("ESTATE and --policy", ["apply", "p", "estate", "--policy", "p.yaml", "--execute", "--reason", "r"]),
        ("--estate", ["what-if", "pangyo", "--estate", "estate"]),
        ("ESTATE", ["incident", "status-page", "estate", "-o", str(tmp_path / "out")]),
    ):
        assert program([*words, *named]) == 2, words
        told = " ".join(capsys.readouterr().err.split())
        assert f"{option} would not be used: the server" in told, (words, told)


@pytest.mark.parametrize("way", ["server", "store"])
def test_the_same_is_asked_both_ways(evac: Evac, fire: str, ways: Ways, way: str) -> None:
    key = ("--key", str(ways.folder / "kim.key")) if way == "store" else ()
    assert evac(way, "hold", "--reason", "smoke").words.startswith("held: nothing new starts")
    again = evac("store" if way == "server" else "server", "hold", "--reason", "more smoke")
    assert (again.code, "already on hold by kim (smoke)" in again.words) == (0, True)
    if key:
        assert "[unproven]" in evac(way, "hold", "--release").words
    assert evac(way, "hold", "--release", *key).words.startswith("released")
    assert evac(way, "hold", "--release", *key).words.startswith("there was no hold")
    if key:
        for words in (
            ("site", "clear", "pangyo", "--reason", "over"),
            ("incident", "reopen", fire, "--reason", "no"),
        ):
            assert "[unproven]" in evac(way, *words).words, words
    for words in (("pause", "--for", "10m", "--then", "stay"), ("resume",)):
        if key and words == ("resume",):
            assert evac(way, "run", "resume", fire, "--reason", "a break").code == 10
        assert evac(way, "run", words[0], fire, *words[1:], "--reason", "a break", *key).code == 0
    assert evac(way, "incident", "note", fire, "seen from " + way).code == 0
    assert evac(way, "incident", "note", "new-" + way, "smoke", "--new").code == 0
    assert "seen from " + way in evac.alike("incident", "timeline", fire).out


def test_who_may_not_is_told_with_exit_code_4(
    evac: Evac, fire: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVAC_TOKEN", TOKENS["viewer"])
    assert evac("server", "run", "list").code == 0
    refused = evac("server", "run", "pause", fire, "--reason", "why")
    assert (refused.code, "viewer" in refused.words) == (4, True)
    monkeypatch.setenv("EVAC_TOKEN", "evac-unknown")
    assert (
        evac("server", "run", "list").code,
        evac("server", "run", "list").words.count("evac-unknown"),
    ) == (4, 0)
    monkeypatch.delenv("EVAC_TOKEN")
    nobody = evac("server", "run", "list")
    assert (nobody.code, "--token-file" in nobody.words) == (4, True)
    file = tmp_path / "token"
    file.write_text(TOKENS["viewer"])
    file.chmod(0o600)
    assert evac("server", "run", "list", "--token-file", str(file)).code == 0
    assert evac("server", "run", "list", "--token-command", f"/bin/cat {file}").code == 0
    file.chmod(0o644)
    assert "secret-open" in evac("server", "run", "list", "--token-file", str(file)).words
    monkeypatch.setenv("EVAC_SERVER", evac.ways.server)
    assert program(["run", "list", "--token-command", f"/bin/cat {file}"]) == 0
    assert evac("store", "run", "list").code == 0, "what is said goes before the environment"
    assert program(["run", "list", *evac.ways.to("store"), *evac.ways.to("server")]) == 2


def test_a_break_glass_credential_asks_one_thing_of_one_run(
    evac: Evac, fire: str, ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = ["access", "break-glass", "--incident", fire, "--purpose", "pause", "--who", "kim"]
    sign += ["--reason", "no provider", "--key", f"file:{ways.folder / 'kim.key'}", "-q"]
    evac._capsys.readouterr()
    assert program(sign) == 0
    monkeypatch.setenv("EVAC_TOKEN", evac._capsys.readouterr().out.strip())
    assert evac("server", "run", "show", fire).code in (0, 13), "it reads everything"
    other = evac("server", "run", "cancel", fire, "--reason", "why")
    assert (other.code, "glass-purpose" in other.words) == (4, True)
    assert evac("server", "run", "pause", fire, "--reason", "people inside").code == 0
    spent = evac("server", "run", "pause", fire, "--reason", "again")
    assert (spent.code, "glass-spent" in spent.words) == (4, True)
    assert evac("server", "hold", "--reason", "why").code == 4
    key = ("--key", str(ways.folder / "kim.key"))
    assert evac("store", "run", "resume", fire, "--reason", "they are out", *key).code == 0


class Cutter:
    """Between a command and the server: takes the first answer to a change away, after it was given."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        """One connection: a thread for what goes, this one for what comes."""
        heads: list[bytes] = []

        def send() -> None:
            with contextlib.suppress(OSError):
                while asked := client.recv(1 << 16):
                    heads.append(asked[:4])
                    server.sendall(asked)

        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            threading.Thread(target=send, daemon=True).start()
            with contextlib.suppress(OSError):
                while answer := server.recv(1 << 16):
                    if heads[0] == b"POST" and not self.cut:
                        self.cut += 1
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(answer)

    def close(self) -> None:
        self._listener.close()


def test_a_cut_after_the_asking_does_nothing_twice(evac: Evac, fire: str, ways: Ways) -> None:
    cutter = Cutter(ways.server)
    try:
        said = program(["incident", "note", fire, "written once", "-q", "--server", cutter.url])
    finally:
        cutter.close()
    assert (said, cutter.cut) == (0, 1)
    assert evac("store", "incident", "timeline", fire, "--all").out.count("written once") == 1


def test_a_run_is_followed_to_its_end_and_its_events_too(evac: Evac, tmp_path: Path) -> None:
    """In a room of its own: a run that ended is no run for other tests."""
    with room(tmp_path) as evac.ways:
        follow_to_the_end(evac, begun(evac.ways))


def follow_to_the_end(evac: Evac, fire: str) -> None:
    command = [sys.executable, "-m", "evac", "run", "events", fire, "--follow", *evac.ways.to("server")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert evac("server", "run", "attest", fire, "fence:db", "--reason", "seen").code == 0
            waiting = "then attest promote:db"
            until(lambda: waiting in evac("server", "run", "show", fire).out, "the promotion waits")
            assert evac("server", "run", "cancel", fire, "--reason", "it was a drill").code == 0
            assert evac("server", "run", "attest", fire, *SEEN, "--reason", "seen").code == 0
            ended = evac("server", "run", "watch", fire)
            assert (ended.code, "cancelled" in ended.out) == (1, True)
            out, _ = following.communicate(timeout=60)
        except BaseException:
            following.kill()  # it follows for ever, and leaving waits for it
            raise
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["event"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["kind"] == "run_ended"
    assert evac.alike("run", "events", fire).out.startswith(out)
    assert evac.alike("run", "pause", fire, "--reason", "too late").code == 1
