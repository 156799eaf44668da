"""A room behind TLS, in a process of its own: no certificate, no word; streams end with their login."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import pytest_socket

from tests.web.certificates import Papers, papers, second_client
from tests.web.conftest import START_S, free_port
from tests.web.rooms import ESTATE, until


@pytest.fixture(autouse=True)
def sockets(room: object) -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Papers]]:
    pytest_socket.enable_socket()
    folder = tmp_path_factory.mktemp("tls")
    found, port = papers(folder), free_port()
    access = folder / "access.yaml"
    access.write_text(
        f"people:\n  kim: {{role: operator, password: env:KIM}}\n"
        f"  lee: {{role: approver, certificate: 'sha256:{fingerprint(found.client_cert)}'}}\n"
        f"address: https://127.0.0.1:{port}\n"
        f"tls: {{cert: {found.cert}, key: {found.key}, client_ca: {found.authority}}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "evac.web.serving",
        str(ESTATE),
        "--store",
        f"sqlite:{folder / 'r.sqlite'}",
    ]
    command += ["--listen", f"127.0.0.1:{port}", "--access", str(access)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "KIM": "open sesame now"})
    try:
        _until_answers(port, found, process)
        yield port, found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        pytest_socket.disable_socket(allow_unix_socket=True)


def line(port: int, found: Papers, *, client: bool = True) -> httpx2.Client:
    context = ssl.create_default_context(cafile=str(found.authority))
    if client:
        context.load_cert_chain(found.client_cert, found.client_key)
    return httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=60)


def _until_answers(port: int, found: Papers, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the room ended"
        try:
            with line(port, found) as client:
                if client.get("/healthz").status_code == 200:
                    return
        except httpx2.TransportError:
            time.sleep(0.1)
    raise AssertionError("the room did not answer")


def test_a_login_over_tls_and_a_stream_that_ends_with_it(room: tuple[int, Papers]) -> None:
    with line(*room) as client:
        form = re.search(r'name="form" value="([^"]+)"', client.get("/sign-in").text)
        assert form is not None
        fields = {"form": form[1], "name": "kim", "password": "open sesame now"}
        done = client.post("/sign-in", data=fields)
        assert done.status_code == 303
        assert done.headers["strict-transport-security"]
        login = next(v for v in done.headers.get_list("set-cookie") if v.startswith("__Host-evac_session="))
        assert "Secure" in login
        with client.stream("GET", "/v1/stream") as stream:
            assert stream.status_code == 200
            token = re.search(r'name="csrf" value="([^"]+)"', client.get("/who").text)
            assert token is not None
            assert client.post("/sign-out", data={"csrf": token[1]}).status_code == 303
            assert client.get("/v1/stream").status_code == 401
            assert len(list(stream.iter_lines())) >= 1  # ends with the next sign of life


def fingerprint(file: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read_text())).hexdigest()


def form_of(client: httpx2.Client) -> str:
    form = re.search(r'name="form" value="([^"]+)"', client.get("/sign-in").text)
    assert form is not None
    return form[1]


def test_a_certificate_signs_its_person_in_and_the_login_needs_it(
    room: tuple[int, Papers], tmp_path: Path
) -> None:
    port, found = room
    with line(*room) as client:
        assert client.post("/sign-in/certificate", data={"form": "another"}).status_code == 403
        done = client.post("/sign-in/certificate", data={"form": form_of(client)})
        assert done.status_code == 303
        me = client.get("/v1/me").json()
        assert (me["name"], me["role"], me["proof"]) == ("lee", "approver", "certificate")
        cookie = client.cookies["__Host-evac_session"]
    other = replace(found, **second_client(found, tmp_path))
    with line(port, other) as thief:
        told = thief.get("/v1/me", headers={"cookie": f"__Host-evac_session={cookie}"})
        assert told.status_code == 401, "another certificate of the same authority"
        refused = thief.post("/sign-in/certificate", data={"form": form_of(thief)})
        assert refused.status_code == 401
        assert "No person here has this certificate" in refused.text
    with line(*room) as client:
        told = client.get("/v1/me", headers={"cookie": f"__Host-evac_session={cookie}"})
        assert told.json()["name"] == "lee"


def test_who_shows_no_certificate_is_not_spoken_to(room: tuple[int, Papers]) -> None:
    port, found = room
    with line(port, found, client=False) as bare, pytest.raises(httpx2.TransportError):
        bare.get("/healthz")
    with httpx2.Client() as plain, pytest.raises(httpx2.TransportError):
        plain.get(f"http://127.0.0.1:{port}/healthz")


def test_a_renewed_certificate_and_authority_are_taken_without_a_new_start(
    room: tuple[int, Papers], tmp_path: Path
) -> None:
    """Afterwards the room believes the first authority again, as the other tests of this module do."""
    port, found = room
    fresh = papers(tmp_path)
    kept = {name: getattr(found, name).read_bytes() for name in ("authority", "cert", "key")}
    with pytest.raises(httpx2.TransportError), line(port, fresh) as early:
        early.get("/healthz")
    try:
        with line(port, found) as open_before:
            assert open_before.get("/healthz").status_code == 200
            for name in kept:
                shutil.copy(getattr(fresh, name), getattr(found, name))
            until(lambda: _answers(port, fresh), "the new certificate was not accepted")
            assert open_before.get("/healthz").status_code == 200, "nobody is cut off"
        with pytest.raises(httpx2.TransportError), line(port, fresh, client=False) as bare:
            bare.get("/healthz")
    finally:
        for name, content in kept.items():
            getattr(found, name).write_bytes(content)
        until(lambda: _answers(port, found), "the first certificate is not taken again")


def _answers(port: int, found: Papers) -> bool:
    try:
        with line(port, found) as client:
            return client.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False
