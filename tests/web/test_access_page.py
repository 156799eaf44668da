"""Signing in with a real browser, under the policy for scripts and forms that the room sends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.engine.runs.signatures import new_key
from tests.web.conftest import free_port, until_ready
from tests.web.rooms import ESTATE
from tests.web.test_now_page import opened

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a room with an access file."""
    import pytest_socket

    pytest_socket.enable_socket()
    folder: Path = tmp_path_factory.mktemp("guarded")
    access, listen = folder / "access.yaml", f"127.0.0.1:{free_port()}"
    key = new_key(folder / "kim.pem")
    access.write_text(f"people: {{kim: {{role: operator, password: env:KIM, key: {key}}}}}\n")
    command = [
        sys.executable,
        "-m",
        "evac.web.serving",
        str(ESTATE),
        "--listen",
        listen,
        "--access",
        str(access),
    ]
    command += ["--access", str(access), "--store", f"sqlite:{folder / 'room.sqlite'}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "KIM": "open sesame now"})
    try:
        until_ready(f"http://{listen}/healthz", process)
        yield f"http://{listen}"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        pytest_socket.disable_socket(allow_unix_socket=True)


def test_a_person_signs_in_looks_around_and_signs_out(browser: Browser, guarded: str) -> None:
    page = opened(browser, f"{guarded}/now", 390)
    refused: list[str] = []
    page.on("console", lambda said: refused.append(said.text) if "Content Security" in said.text else None)
    assert page.url == f"{guarded}/sign-in?next=%2Fnow"
    assert not Axe().run(page).response["violations"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label("Name").fill("kim")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Password").fill("open sesame now")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{guarded}/now")
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("link", name="Your account").click()
    page.get_by_role("heading", name="You are kim").wait_for()
    assert not Axe().run(page).response["violations"]
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{guarded}/sign-in")
    page.goto(f"{guarded}/who")
    assert page.url.startswith(f"{guarded}/sign-in")
    assert not refused
