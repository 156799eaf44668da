"""Running clusters as sources: what a dump of one says, asked page by page, with refusals named."""

import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evac.app.fetching import clusters
from evac.app.fetching.clusters import Pace, fetch_cluster
from evac.app.fetching.kubeconfig import read_access
from evac.cli.main import run
from evac.cli.program import cli
from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import Live, Options, import_estate
from evac.estate.importers.kubernetes.operators import OPERATORS
from evac.estate.importers.kubernetes.source import KINDS_OF_GROUPS, POD_PATHS
from evac.model.errors import InvalidInput
from tests.unit.app.api_server import ApiServer, kubeconfig, plural, serving
from tests.web.certificates import papers

pytestmark = pytest.mark.enable_socket

DUMPS = Path(__file__).parents[2] / "fixtures" / "first-hour"
TOKEN = "quiet-harbour-418"


def recorded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DUMPS / f"cluster-{name}.json").read_text())["items"]
    return found


@pytest.fixture
def fra() -> Iterator[ApiServer]:
    with serving(recorded("fra")) as api:
        yield api


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "REQUESTS_PER_SECOND", 1_000)


def config(folder: Path, **apis: ApiServer) -> Path:
    return kubeconfig(
        folder / "config",
        {f"prod-{name}": ({"server": api.url}, {"token": TOKEN}) for name, api in apis.items()},
    )


@dataclass(frozen=True)
class Done:
    exit_code: int
    output: str


def invoke(*words: object) -> Done:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run(["import", *map(str, words)])
    return Done(code, said.getvalue())


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "overlay.yaml"}


def test_a_running_cluster_says_what_its_dump_says(tmp_path: Path, fra: ApiServer) -> None:
    fra.token = TOKEN
    flags = ("--kubeconfig", config(tmp_path, fra=fra))
    done = invoke("kubernetes", "--context", "fra=prod-fra", *flags, "-o", tmp_path / "live")
    assert done.exit_code == 0, done.output
    options = Options(site="fra")
    import_estate("kubernetes", DUMPS / "cluster-fra.json", tmp_path / "dump", options=options)
    assert written(tmp_path / "live") == written(tmp_path / "dump")
    assert not any("secret" in path for path in fra.asked)
    again = invoke("kubernetes", "--context", "fra=prod-fra", *flags, "-o", tmp_path / "live")
    assert "nothing has changed since the last import" in again.output


def test_several_contexts_are_several_sites(tmp_path: Path, fra: ApiServer) -> None:
    with serving(recorded("muc")) as muc:
        flags = ("--kubeconfig", config(tmp_path, fra=fra, muc=muc), "-o", tmp_path / "estate")
        done = invoke("kubernetes", "--context", "fra=prod-fra", "--context", "muc=prod-muc", *flags)
    assert done.exit_code == 0, done.output
    estate = load(tmp_path / "estate")
    assert [site.id for site in estate.sites] == ["fra", "muc"]
    assert len(estate.fleet) == 6


def test_lists_are_read_in_pages_and_begin_again_when_they_expire(
    tmp_path: Path, fra: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "PAGE_SIZE", 2)
    fra.expired = 2
    flags = ("--site", "fra", "--kubeconfig", config(tmp_path, fra=fra), "-o", tmp_path / "live")
    done = invoke("kubernetes", "--context", "prod-fra", *flags)
    assert done.exit_code == 0, done.output
    options = Options(site="fra")
    import_estate("kubernetes", DUMPS / "cluster-fra.json", tmp_path / "dump", options=options)
    assert written(tmp_path / "live") == written(tmp_path / "dump"), "nothing twice, nothing lost"
    pods = [path for path in fra.asked if path.startswith("/api/v1/pods")]
    assert all("limit=2" in path for path in pods)
    assert len(pods) >= 5


def test_pages_that_expire_for_ever_end_in_an_error(
    tmp_path: Path, fra: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "PAGE_SIZE", 2)
    fra.expired = 10_000
    with pytest.raises(InvalidInput, match="expired 6 times") as caught:
        fetch_cluster(Live(kubeconfig=config(tmp_path, fra=fra)), (), tmp_path, Problems())
    assert "less busy" in caught.value.hint


def test_a_page_of_large_objects_is_asked_for_in_smaller_parts(
    tmp_path: Path, fra: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "PAGE_BYTES_MAX", 3_000)
    folder = fetch_cluster(Live(kubeconfig=config(tmp_path, fra=fra)), (), tmp_path, Problems())
    pods = json.loads((folder / "prod-fra.pods.json").read_text())["items"]
    assert len(pods) == 13


def test_a_server_is_asked_five_times_a_second_and_given_the_patience_it_wants(
    tmp_path: Path, fra: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "REQUESTS_PER_SECOND", 5)
    clock = {"now": 0.0}
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(round(seconds, 3))
        clock["now"] += seconds

    fra.busy = 2
    live = Live(kubeconfig=config(tmp_path, fra=fra))
    fetch_cluster(live, (), tmp_path, Problems(), Pace(lambda: clock["now"], sleep))
    assert waits[:2] == [7.0, 7.0]
    assert set(waits[2:]) == {0.2}
    assert len(waits) - 2 >= len(fra.asked) - 3, "the first request and two that were patient enough"


def test_what_the_account_may_not_list_is_named_and_the_rest_is_imported(
    tmp_path: Path, fra: ApiServer
) -> None:
    fra.forbidden = {"pods", "clusters"}
    flags = ("--site", "fra", "--kubeconfig", config(tmp_path, fra=fra), "-o", tmp_path / "estate")
    strict = invoke("kubernetes", "--context", "prod-fra", *flags, "--strict")
    assert strict.exit_code == 2
    assert not (tmp_path / "estate").exists()
    done = invoke("kubernetes", "--context", "prod-fra", *flags)
    assert done.exit_code == 19, done.output
    assert "may not list pods, clusters.postgresql.cnpg.io, so they are missing" in done.output
    assert "--verb=list --resource=pods,clusters.postgresql.cnpg.io; then bind" in done.output
    assert [site.id for site in load(tmp_path / "estate").sites] == ["fra"]


def test_an_account_that_may_not_ask_for_kinds_still_lists_the_usual_ones(
    tmp_path: Path, fra: ApiServer
) -> None:
    fra.forbidden = {"/apis"}
    problems = Problems()
    folder = fetch_cluster(Live(kubeconfig=config(tmp_path, fra=fra)), (), tmp_path, problems)
    names = {path.name for path in folder.iterdir() if len(json.loads(path.read_text())["items"])}
    assert {"prod-fra.pods.json", "prod-fra.nodes.json", "prod-fra.deployments.apps.json"} <= names
    assert [one.code for one in problems.all()] == ["import-forbidden"]


def test_without_a_list_of_pods_no_capacity_is_known_to_be_free(tmp_path: Path, fra: ApiServer) -> None:
    """Nodes may be full of what the account cannot see."""
    flags = ("--site", "fra", "--kubeconfig", config(tmp_path, fra=fra))
    whole = invoke("kubernetes", "--context", "prod-fra", *flags, "-o", tmp_path / "whole")
    assert "import-use-unknown" not in whole.output
    assert all(None not in pool.capacity[:2] for pool in load(tmp_path / "whole").pools)
    fra.forbidden = {"pods"}
    done = invoke("kubernetes", "--context", "prod-fra", *flags, "-o", tmp_path / "part")
    assert done.exit_code == 19, done.output
    assert "how much of their capacity is free is unknown" in done.output
    estate = load(tmp_path / "part")
    assert estate.pools
    assert all(pool.capacity == (None,) * 4 for pool in estate.pools)
    assert not estate.fleet.capacity_known.any()


def test_a_version_that_fails_is_not_taken_for_an_empty_one(tmp_path: Path, fra: ApiServer) -> None:
    fra.answers = {"/apis/apps/v1": (500, b'{"message": "etcd is down"}')}
    flags = ("--kubeconfig", config(tmp_path, fra=fra), "-o", tmp_path / "estate")
    done = invoke("kubernetes", "--context", "prod-fra", *flags)
    assert done.exit_code == 2
    assert "returned status 500: 'etcd is down'" in done.output
    assert not (tmp_path / "estate").exists()


def test_a_token_that_expires_on_the_way_leaves_the_estate_as_it_was(tmp_path: Path, fra: ApiServer) -> None:
    flags = ("--site", "fra", "--kubeconfig", config(tmp_path, fra=fra), "-o", tmp_path / "estate")
    assert invoke("kubernetes", "--context", "prod-fra", *flags).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "estate").iterdir()}
    fra.answers = {"/api/v1/pods": (401, b'{"message": "Unauthorized"}')}
    done = invoke("kubernetes", "--context", "prod-fra", *flags)
    assert done.exit_code == 2
    assert "no longer accepts the credentials of context prod-fra" in done.output
    assert "log in again" in done.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "estate").iterdir()} == before


def test_namespaces_are_listed_one_by_one(tmp_path: Path, fra: ApiServer) -> None:
    spaces = sorted({one["metadata"]["namespace"] for one in fra.objects if one["kind"] == "Pod"})
    live = Live(kubeconfig=config(tmp_path, fra=fra))
    folder = fetch_cluster(live, (spaces[0], "no-such"), tmp_path, Problems())
    pods = json.loads((folder / f"prod-fra.{spaces[0]}.pods.json").read_text())["items"]
    assert {pod["metadata"]["namespace"] for pod in pods} == {spaces[0]}
    assert not any(path.startswith("/api/v1/pods") for path in fra.asked)


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"token": "another"}, "does not accept the credentials of context prod-fra", "log in again"),
        (
            {"forbidden": {plural(one["kind"]) for one in recorded("fra")}},
            "has no permission to list anything",
            "the role view",
        ),
        ({"answers": {"/apis": (302, b"")}}, "returned status 302", "check that this is the API server"),
        (
            {"answers": {"/apis": (200, b"<html>")}},
            "the response is not JSON",
            "check that this is the API server",
        ),
        ({"busy": 1_000}, "was busy 8 times in a row", "import again later"),
        (
            {"answers": {"/api/v1/nodes": (200, {"items": [], "metadata": {"continue": "again"}})}},
            "a page links to one that was already read",
            "use a dump",
        ),
        (
            {
                "answers": {
                    f"/api/v1/nodes{query}": (200, {"items": [], "metadata": {"continue": following}})
                    for query, following in (("", "a"), ("?continue=a", "b"), ("?continue=b", "a"))
                }
            },
            "a page links to one that was already read",
            "use a dump",
        ),
    ],
)
def test_a_cluster_that_cannot_be_read_leaves_the_estate_as_it_was(
    tmp_path: Path, fra: ApiServer, monkeypatch: pytest.MonkeyPatch, changes: Any, words: str, hint: str
) -> None:
    monkeypatch.setattr(clusters, "patience_s", lambda _: 0.0)
    for name, value in changes.items():
        setattr(fra, name, value)
    flags = ("--kubeconfig", config(tmp_path, fra=fra), "-o", tmp_path / "estate")
    done = invoke("kubernetes", "--context", "prod-fra", *flags)
    assert done.exit_code == 2
    assert words in done.output
    assert hint in done.output
    assert TOKEN not in done.output
    assert not (tmp_path / "estate").exists()


def test_tls_with_a_token_and_with_a_client_certificate(tmp_path: Path) -> None:
    made = papers(tmp_path)
    data = {name: base64.b64encode(getattr(made, name).read_bytes()).decode() for name in ("authority",)}
    files = {"client-certificate": made.client_cert.name, "client-key": made.client_key.name}
    with serving(recorded("fra"), made) as api:
        cluster = {"server": api.url, "certificate-authority-data": data["authority"]}
        path = kubeconfig(
            tmp_path / "config",
            {
                "by-certificate": (cluster, files),
                "by-token": (cluster, {"token": TOKEN}),
                "unknown-authority": ({"server": api.url}, {"token": TOKEN}),
                "unverified": ({"server": api.url, "insecure-skip-tls-verify": True}, {"token": TOKEN}),
                "other-name": (cluster | {"tls-server-name": "api.example"}, {"token": TOKEN}),
            },
        )
        for context in ("by-certificate", "by-token"):
            problems = Problems()
            fetch_cluster(Live(context=context, kubeconfig=path), (), tmp_path, problems)
            assert not problems.all()
        problems = Problems()
        fetch_cluster(Live(context="unverified", kubeconfig=path), (), tmp_path, problems)
        assert [one.code for one in problems.all()] == ["import-unverified"]
        with pytest.raises(InvalidInput, match="not signed by a trusted CA"):
            fetch_cluster(Live(context="unknown-authority", kubeconfig=path), (), tmp_path, Problems())
        with pytest.raises(InvalidInput, match="for a different name"):
            fetch_cluster(Live(context="other-name", kubeconfig=path), (), tmp_path, Problems())


def test_a_token_goes_to_no_other_cluster_in_plain_text(tmp_path: Path, fra: ApiServer) -> None:
    """0.0.0.0 leads to this machine, but nothing says so: it stands for any other address."""
    other = fra.url.replace("127.0.0.1", "0.0.0.0")
    users: dict[str, dict[str, Any]] = {"named": {"token": TOKEN}, "nameless": {}}
    path = kubeconfig(tmp_path / "config", {name: ({"server": other}, user) for name, user in users.items()})
    with pytest.raises(InvalidInput, match="would receive the token in plain text") as caught:
        fetch_cluster(Live(context="named", kubeconfig=path), (), tmp_path, Problems())
    assert caught.value.code == "server-plain"
    assert not fra.asked
    problems = Problems()
    fetch_cluster(Live(context="nameless", kubeconfig=path), (), tmp_path, problems)
    assert fra.asked
    assert [one.code for one in problems.all()] == ["import-unverified"]


def test_a_program_for_credentials_runs_only_if_it_is_named(tmp_path: Path, fra: ApiServer) -> None:
    fra.token = TOKEN
    program = tmp_path / "get-token"
    answer = {"kind": "ExecCredential", "status": {"token": TOKEN}}
    program.write_text(
        f"#!{sys.executable}\nimport os\nassert os.environ['AWS_PROFILE'] == 'b'\nprint({answer!r})\n"
    )
    program.write_text(program.read_text().replace("print(", "import json; print(json.dumps(") + ")")
    program.chmod(0o700)
    user = {
        "exec": {"command": "./get-token", "env": [{"name": "AWS_PROFILE", "value": "b"}], "args": ["--x"]}
    }
    path = kubeconfig(tmp_path / "config", {"prod": ({"server": fra.url}, user)})
    flags = ("--site", "fra", "--kubeconfig", path, "-o", tmp_path / "estate")
    refused = invoke("kubernetes", "--context", "prod", *flags)
    assert refused.exit_code == 2
    assert "gets its credentials from a command: ./get-token" in refused.output
    assert f"--exec {program}" in refused.output.replace("\n", "").replace("      ", "")
    for other in ("get-token", "./get-token", "/bin/get-token"):
        assert invoke("kubernetes", "--context", "prod", *flags, "--exec", other).exit_code == 2
    assert not fra.asked
    done = invoke("kubernetes", "--context", "prod", *flags, "--exec", program)
    assert done.exit_code == 0, done.output
    kept = "".join(path.read_text() for path in (tmp_path / "estate").iterdir())
    assert TOKEN not in kept + done.output


def script(path: Path, mark: Path, token: str) -> Path:
    """A program that leaves a mark and prints credentials."""
    path.parent.mkdir(exist_ok=True)
    answer = json.dumps({"status": {"token": token}})
    path.write_text(f"#!/bin/sh\necho ran > {mark}\necho '{answer}'\n")
    path.chmod(0o700)
    return path


def test_a_bare_name_is_the_program_in_our_own_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the folder of the kubeconfig nor the current one provides it."""
    evil = tmp_path / "evil"
    script(evil / "aws", tmp_path / "mark", "stolen")
    monkeypatch.chdir(evil)
    path = kubeconfig(
        evil / "config", {"prod": ({"server": "https://a.example"}, {"exec": {"command": "aws"}})}
    )
    monkeypatch.setenv("PATH", f":.:{tmp_path / 'bin'}:")
    with pytest.raises(InvalidInput, match=r"config:1:.*aws cannot be run") as caught:
        read_access((path,), "prod", ("aws",))
    assert caught.value.code == "import-plugin"
    script(tmp_path / "bin" / "aws", tmp_path / "ours", TOKEN)
    access = read_access((path,), "prod", ("aws",))
    assert access.token is not None
    assert access.token.reveal() == TOKEN
    assert (tmp_path / "ours").exists()
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("command", ["./aws", "../evil/aws", "/{evil}/aws", "sub/../aws", "./aws\x1b[2K"])
def test_a_command_with_a_slash_is_not_the_program_of_that_name(tmp_path: Path, command: str) -> None:
    evil = tmp_path / "evil"
    (evil / "sub").mkdir(parents=True)
    script(evil / "aws", tmp_path / "mark", "stolen")
    user = {"exec": {"command": command.replace("/{evil}", str(evil))}}
    path = kubeconfig(evil / "config", {"prod": ({"server": "https://a.example"}, user)})
    with pytest.raises(InvalidInput) as caught:
        read_access((path,), "prod", ("aws",))
    assert caught.value.code == "import-plugin"
    assert "\x1b" not in caught.value.with_hint
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "PATH",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "LD_AUDIT",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "BASH_ENV",
            "ENV",
        ),
        *("PERL5OPT", "RUBYOPT", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "GCONV_PATH", "OPENSSL_CONF", "HOME"),
        *("AWS_CONFIG_FILE", "BASH_FUNC_echo%%", "A=B", ""),
        *("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"),
        *("CLOUDSDK_AUTH_TOKEN_HOST", "CLOUDSDK_PROXY_ADDRESS", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"),
        *("AZURE_AUTHORITY_HOST", "AWS_ENDPOINT_URL_STS", "SOMETHING_NEW", "aws_profile"),
    ],
)
def test_a_kubeconfig_cannot_make_the_allowed_program_run_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script(tmp_path / "bin" / "aws", tmp_path / "mark", TOKEN)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    user = {
        "exec": {
            "command": "aws",
            "env": [{"name": "AWS_PROFILE", "value": "a"}, {"name": name, "value": "/e"}],
        }
    }
    path = kubeconfig(tmp_path / "config", {"prod": ({"server": "https://a.example"}, user)})
    with pytest.raises(InvalidInput, match=r"^config:1:\d+: ") as caught:
        read_access((path,), "prod", ("aws",))
    assert caught.value.code == "import-plugin-env"
    assert "kubeconfig" in caught.value.hint
    assert not (tmp_path / "mark").exists()


def test_a_file_that_a_kubeconfig_names_is_plain_and_bounded(tmp_path: Path) -> None:
    """A named pipe would be waited for without end, and a token cut off at the limit is none."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * (2**20 + 1))
    for name, words in (("pipe", "not a regular file"), ("large", "more than 1,048,576 bytes")):
        for user in ({"tokenFile": name}, {"client-certificate": name}):
            path = kubeconfig(tmp_path / "config", {"prod": ({"server": "https://a.example"}, user)})
            with pytest.raises(InvalidInput, match=words) as caught:
                read_access((path,), "prod")
            assert caught.value.code == "import-kubeconfig"


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({"server": "http://127.0.0.1:1", "proxy-url": "http://p"}, {}, "through a proxy"),
        ({"server": "http://127.0.0.1:1"}, {"username": "a", "password": TOKEN}, "has username"),
        ({"server": "http://127.0.0.1:1"}, {"as": "root", "token": TOKEN}, "has as"),
        ({"server": "ftp://127.0.0.1"}, {}, "has no cluster with a server address"),
        ({"server": "http://127.0.0.1:1"}, {"tokenFile": "gone"}, "the token of context prod cannot be read"),
    ],
)
def test_what_evac_does_not_follow_in_a_kubeconfig_is_refused(
    tmp_path: Path, cluster: Any, user: Any, words: str
) -> None:
    path = kubeconfig(tmp_path / "config", {"prod": (cluster, user)})
    with pytest.raises(InvalidInput, match=words) as caught:
        read_access((path,), "prod")
    assert TOKEN not in f"{caught.value} {caught.value.hint}"


def test_a_broken_kubeconfig_is_never_quoted(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(f"users:\n- user: {{token: {TOKEN}\n  x")
    with pytest.raises(InvalidInput, match="not a kubeconfig, line") as caught:
        read_access((path,), "prod")
    assert TOKEN not in f"{caught.value} {caught.value.hint}"
    path.write_text("contexts: [{name: prod-eu, context: {}}]")
    with pytest.raises(InvalidInput, match="not found: context prod-us") as caught:
        read_access((path,), "prod-us")
    assert "prod-eu" in caught.value.hint


def test_a_recipe_asks_its_clusters_again_on_update(tmp_path: Path, fra: ApiServer) -> None:
    config(tmp_path, fra=fra)
    recipe = tmp_path / "estate.yaml"
    lines = (
        "recipe: 1\nsources:\n  east: {kind: kubernetes, context: prod-fra, kubeconfig: config, site: fra}\n"
    )
    recipe.write_text(lines)
    assert invoke(recipe).exit_code == 0
    assert "nothing has changed since the last import" in invoke(recipe, "--update").output
    before = written(tmp_path / "estate")
    fra.objects = [one for one in fra.objects if one["metadata"]["name"] != "shop"]
    assert "- " in invoke(recipe, "--update").output
    assert written(tmp_path / "estate") != before
    recipe.write_text(lines + "  west: {kind: kubernetes, context: gone, kubeconfig: config}\n")
    before = written(tmp_path / "estate")
    fra.token = "another"
    failed = invoke(recipe, "--update")
    assert failed.exit_code == 2
    assert "east: " in failed.output
    assert "west: not found: context gone" in failed.output
    assert written(tmp_path / "estate") == before


def test_a_dump_comes_through_the_standard_input(tmp_path: Path) -> None:
    dump = (DUMPS / "cluster-fra.json").read_bytes()
    words = ["import", "kubernetes", "-", "--site", "fra", "-o", str(tmp_path / "estate")]
    done = CliRunner().invoke(cli, words, input=dump)
    assert done.exit_code == 0, done.output
    assert [site.id for site in load(tmp_path / "estate").sites] == ["fra"]


def test_every_kind_that_is_read_is_asked_for() -> None:
    asked = {kind for kinds in KINDS_OF_GROUPS.values() for kind in kinds}
    assert asked > set(POD_PATHS) | set(OPERATORS)
    for known in OPERATORS.values():
        assert all(kind in KINDS_OF_GROUPS[group] for group, kind in known)
    assert "Secret" not in asked
