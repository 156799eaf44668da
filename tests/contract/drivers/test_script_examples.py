"""Scripts of the documentation for MongoDB, Elasticsearch, AWS and ExaBGP, run by the driver `command`.

ExaBGP is real. The other systems are fakes that speak the real protocols: the wire protocol of MongoDB, the
REST API of Elasticsearch, and moto for AWS.
"""

import asyncio
import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from evac.cli import console
from evac.cli.main import run
from evac.drivers.command.driver import CommandDriver
from evac.drivers.port import Action, Value, Verb
from evac.model.errors import Permanent, Retryable
from tests.contract.capabilities.story import order
from tests.contract.drivers.fake_mongo import ReplicaSet
from tests.contract.ports import free_port

pytestmark = pytest.mark.enable_socket
Endpoint = Callable[..., Action]
KEY = "quiet-harbour-420"
DRIVER = CommandDriver()


def wait_for(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(story)


@pytest.fixture(scope="module")
def endpoint(project_root: Path) -> Endpoint:
    """Makes an action of the endpoint that runs one of the scripts."""

    def made(script: str, verb: Verb, at: str, env: dict[str, str], **parameters: Value) -> Action:
        program = (sys.executable, str(project_root / "docs" / "how-to" / "scripts" / script))
        keys = ("argv", "observe_argv", "undo_argv", "role_argv")
        settings: dict[str, Value] = dict.fromkeys(keys, program)
        if verb in ("drain", "ready"):
            settings["check_argv"] = program
        settings["env"] = env_of(env)
        return Action(verb, "orders", "command", at, settings, parameters)

    return made


@pytest.fixture
def mongo() -> Iterator[ReplicaSet]:
    """The primary and one more at fra, one at muc."""
    made = ReplicaSet("fra", "fra", "muc")
    yield made
    made.close()


def mongo_env(mongo: ReplicaSet) -> dict[str, str]:
    """What the script needs."""
    return {
        "MONGO_SET": "rs0",
        "MONGO_HOSTS": mongo.setting.replace(",fra=", "+"),
        "MONGO_USER": "",
        "MONGO_PASSWORD": "",
        "MONGO_WAIT_MS": "200",
    }


def test_mongodb_is_forced_only_when_lost_votes_are_fenced(endpoint: Endpoint, mongo: ReplicaSet) -> None:
    env = mongo_env(mongo)
    at_muc = endpoint("mongodb.py", "promote", "muc", env, candidate="muc", proof="demote")
    report = wait_for(DRIVER.report_role(at_muc, 15.0))
    assert (report.role, report.lag_ms, report.history) == ("replica", 0, "rs0")
    with pytest.raises(Retryable, match="takes writes"):
        wait_for(DRIVER.execute(at_muc, order()))
    mongo.lose(*mongo.hosts[:2])
    with pytest.raises(Permanent, match="1 of 3 votes are alive: fence the others"):
        wait_for(DRIVER.execute(at_muc, order()))
    assert mongo.forced == 0
    fenced = replace(at_muc, parameters={"candidate": "muc", "proof": "power"})
    assert wait_for(DRIVER.execute(fenced, order()))["exit_code"] == 0
    assert (mongo.primary, mongo.forced) == (mongo.hosts[2], 1)
    assert wait_for(DRIVER.observe(fenced, order())).outcome == "done"

    mongo.find(*mongo.hosts[:2])
    assert list(mongo.votes().values()) == [0, 0, 1]
    back = endpoint("mongodb.py", "rejoin", "fra", env)
    wait_for(DRIVER.execute(back, order()))
    assert list(mongo.votes().values()) == [1, 1, 1]
    assert wait_for(DRIVER.observe(back, order())).outcome == "done"


def test_mongodb_gives_its_role_up_to_another_site(endpoint: Endpoint, mongo: ReplicaSet) -> None:
    env = mongo_env(mongo)
    demote = endpoint("mongodb.py", "demote", "fra", env)
    wait_for(DRIVER.execute(demote, order()))
    assert mongo.primary == mongo.hosts[2], "the other member at fra was elected"
    with pytest.raises(Permanent, match="a set that moved stays moved"):
        wait_for(DRIVER.undo(demote, order()))
    mongo.forbidden = True
    with pytest.raises(Retryable, match="Unauthorized"):
        wait_for(DRIVER.report_role(demote, 15.0))


class Elasticsearch(BaseHTTPRequestHandler):
    """A cluster of one node at each of two sites. Each look moves a shard off an excluded node."""

    shards: ClassVar[list[str]] = []
    settings: ClassVar[dict[str, dict[str, str]]] = {}
    stuck: ClassVar[bool] = False
    status: ClassVar[str] = "green"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/_cluster/health":
            self._send({"status": self.status})
        elif path == "/_cluster/settings":
            self._send(self.settings)
        elif path == "/_cat/nodeattrs":
            self._send([{"node": f"es-{site}", "attr": "site", "value": site} for site in ("fra", "muc")])
        elif path == "/_cat/shards":
            self._send([{"node": node} for node in self.shards])
            away = self.settings["persistent"].get("cluster.routing.allocation.exclude.site", "")
            leaving = [n for n, node in enumerate(self.shards) if node.removeprefix("es-") in away.split(",")]
            if leaving and not self.stuck:
                self.shards[leaving[0]] = "es-muc"

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for kind, changes in body.items():
            for key, value in changes.items():
                if value is None:
                    self.settings[kind].pop(key, None)
                else:
                    self.settings[kind][key] = value
        self._send({"acknowledged": True})

    def _send(self, body: object) -> None:
        known = self.headers["Authorization"] == f"ApiKey {KEY}"
        data = json.dumps(body if known else {"error": "unauthorized"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def elasticsearch() -> Iterator[dict[str, str]]:
    """What the script needs of a cluster; the first node that it knows is dead."""
    Elasticsearch.shards = ["es-fra", "es-fra", "es-muc"]
    Elasticsearch.settings = {"persistent": {"indices.recovery.max_bytes_per_sec": "40mb"}, "transient": {}}
    Elasticsearch.stuck, Elasticsearch.status = False, "green"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elasticsearch)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    urls = f"http://127.0.0.1:{free_port()},http://127.0.0.1:{server.server_port}"
    yield {"ES_URLS": urls, "ES_API_KEY": KEY}
    server.shutdown()
    thread.join()
    server.server_close()


def test_elasticsearch_drains_a_site(
    elasticsearch: dict[str, str],
    endpoint: Endpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ES_SECRET", KEY)
    env = [f"ES_URLS={elasticsearch['ES_URLS']}", "ES_API_KEY=env:ES_SECRET"]
    drain = endpoint("elasticsearch.py", "drain", "fra", {}, site="fra")
    keys = ("argv", "check_argv", "observe_argv", "undo_argv")
    settings = {"does": ["shift", "drain", "ready"], "env": env}
    settings |= {key: list(drain.settings[key]) for key in keys}  # type: ignore[arg-type]
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nservices: {search: {sites: [fra, muc]}}\n"
        "endpoints:\n"
        f"  search-fra: {{for: search, at: fra, driver: command, settings: {json.dumps(settings)}}}\n"
    )
    before = json.dumps(Elasticsearch.settings)
    code = run(["driver", "test", str(tmp_path), "search-fra", "--act", "drain", "--output", "json"])
    said = capsys.readouterr().out
    assert (code, json.loads(said)["passed"]) == (console.DONE, True), said
    assert Elasticsearch.shards == ["es-muc", "es-muc", "es-muc"]
    assert json.dumps(Elasticsearch.settings) == before, "other settings stay, and the exclusion is gone"
    assert KEY not in said


def test_elasticsearch_says_what_keeps_it_from_a_drain(
    elasticsearch: dict[str, str], endpoint: Endpoint
) -> None:
    Elasticsearch.status = "red"
    assert (
        "red"
        in wait_for(
            DRIVER.check(endpoint("elasticsearch.py", "drain", "fra", elasticsearch, site="fra"), order())
        ).problems[0]
    )
    Elasticsearch.settings["persistent"]["cluster.routing.allocation.exclude.site"] = "fra"
    drain = endpoint("elasticsearch.py", "drain", "muc", elasticsearch, site="muc")
    assert wait_for(DRIVER.check(drain, order())).problems == ("no site would be left for the shards",)
    another = {**elasticsearch, "ES_API_KEY": "another"}
    stranger = endpoint("elasticsearch.py", "drain", "fra", another, site="fra")
    with pytest.raises(Permanent, match="answers 401"):
        wait_for(DRIVER.execute(stranger, order()))


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str, dict[str, str]]]:
    """A client of elbv2, the ARN of a listener that forwards to two groups, and what the script needs."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": KEY,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    ec2, aws = boto3.client("ec2"), boto3.client("elbv2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"eu-central-1{zone}")
        for n, zone in enumerate("ab")
    ]
    groups = {}
    for site, address in (("fra", "10.0.0.5"), ("muc", "10.0.1.5")):
        made = aws.create_target_group(Name=site, Protocol="HTTP", Port=80, VpcId=vpc, TargetType="ip")
        groups[site] = made["TargetGroups"][0]["TargetGroupArn"]
        aws.register_targets(TargetGroupArn=groups[site], Targets=[{"Id": address, "Port": 80}])
    (balancer,) = aws.create_load_balancer(
        Name="shop", Subnets=[one["Subnet"]["SubnetId"] for one in subnets]
    )["LoadBalancers"]
    rows = [
        {"TargetGroupArn": groups["fra"], "Weight": 70},
        {"TargetGroupArn": groups["muc"], "Weight": 30},
    ]
    (made,) = aws.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "ForwardConfig": {"TargetGroups": rows}}],
    )["Listeners"]
    names = ",".join(f"{site}={arn}" for site, arn in groups.items())
    env |= {
        "LB_LISTENER": made["ListenerArn"],
        "LB_GROUPS": names,
        "AWS_SECRET_ACCESS_KEY": "env:AWS_SECRET_ACCESS_KEY",
    }
    yield aws, made["ListenerArn"], env
    server.stop()


def test_aws_shifts_weights_and_puts_back_what_was_there(
    listener: tuple[Any, str, dict[str, str]], endpoint: Endpoint
) -> None:
    aws, arn, env = listener

    def weights() -> list[int]:
        (found,) = aws.describe_listeners(ListenerArns=[arn])["Listeners"]
        return [group["Weight"] for group in found["DefaultActions"][0]["ForwardConfig"]["TargetGroups"]]

    shift = endpoint("aws_lb.py", "shift", "fra", env, to=("muc",), away=("fra",), share=1000)
    assert wait_for(DRIVER.execute(shift, order()))["exit_code"] == 0
    assert weights() == [0, 100]
    assert wait_for(
        DRIVER.check(endpoint("aws_lb.py", "drain", "muc", env, site="muc"), order())
    ).problems == ("no target group would be left with traffic",)
    wait_for(DRIVER.undo(shift, order()))
    assert weights() == [70, 30]
    gone = endpoint("aws_lb.py", "shift", "fra", {**env, "LB_LISTENER": arn + "x"}, to=("muc",))
    with pytest.raises(Permanent, match="ListenerNotFound"):
        wait_for(DRIVER.execute(gone, order()))


@pytest.fixture
def speakers(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An ExaBGP at each of two sites, each the peer of the other, and what the script needs."""
    program = shutil.which("exabgp") or "/usr/sbin/exabgp"
    if not Path(program).exists():
        pytest.skip("exabgp is not installed")
    port = free_port()
    (tmp_path / "env").touch()
    common = {**os.environ, "exabgp_daemon_user": getpass.getuser(), "exabgp_daemon_drop": "false"}
    peers = (
        ("fra", "127.0.0.1", 65001, "127.0.0.3", 65002, "passive true;"),
        ("muc", "127.0.0.3", 65002, "127.0.0.1", 65001, f"connect {port};"),
    )
    running: list[subprocess.Popen[bytes]] = []
    try:
        for site, own, own_as, other, other_as, how in peers:
            folder = tmp_path / site
            (folder / "run").mkdir(parents=True)
            for end in ("in", "out"):
                os.mkfifo(folder / "run" / f"exabgp.{end}", 0o600)
            (folder / "exabgp.conf").write_text(
                f"neighbor {other} {{ router-id {own}; local-address {own}; local-as {own_as};\n"
                f"  peer-as {other_as}; {how} family {{ ipv4 unicast; }} }}\n"
            )
            bound = {"exabgp_tcp_bind": own, "exabgp_tcp_port": str(port)} if site == "fra" else {}
            argv = [
                program,
                "--root",
                str(folder),
                "--env",
                str(tmp_path / "env"),
                str(folder / "exabgp.conf"),
            ]
            with (folder / "log").open("w") as log:
                running.append(subprocess.Popen(argv, env=common | bound, stdout=log, stderr=log))
        client = Path(program).with_name("exabgpcli")
        cli = {site: f"{client} --root {tmp_path / site} --env {tmp_path / 'env'}" for site in ("fra", "muc")}
        asked = [*cli["muc"].split(), "show", "neighbor", "summary"]
        for _ in range(100):
            said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
            if " established " in said.stdout:
                break
            time.sleep(0.2)
        yield {
            "EXA_CLI": ";".join(f"{site}={words}" for site, words in cli.items()),
            "EXA_ROUTES": "192.0.2.1/32",
        }
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_exabgp_announces_and_withdraws(speakers: dict[str, str], endpoint: Endpoint) -> None:
    wait_for(DRIVER.execute(endpoint("exabgp.py", "shift", "fra", speakers, to=("fra",)), order()))
    last = endpoint("exabgp.py", "drain", "fra", speakers, site="fra")
    problems = wait_for(DRIVER.check(last, order())).problems
    assert problems == ("no site would be left that announces",)
    shift = endpoint("exabgp.py", "shift", "muc", speakers, to=("muc",), away=("fra",))
    wait_for(DRIVER.execute(shift, order()))
    seen = wait_for(DRIVER.observe(shift, order()))
    assert seen.outcome == "done"
    assert seen.evidence["output"] == "fra announces nothing; muc announces 192.0.2.1/32"
    undone = wait_for(DRIVER.undo(shift, order()))
    assert undone["output"] == "announced at fra, withdrawn at muc"
    gone = {**speakers, "EXA_CLI": speakers["EXA_CLI"].replace("fra=", "fra=/nowhere/")}
    seen = wait_for(DRIVER.observe(endpoint("exabgp.py", "drain", "fra", gone, site="fra"), order()))
    assert "ExaBGP at fra does not answer" in str(seen.evidence["why"])


def env_of(values: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in values.items())
