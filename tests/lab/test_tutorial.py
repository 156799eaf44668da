"""The tutorial that burns the lab: its own commands, and its approval in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from evac_lab.state import LabFolder
from tests.lab.conftest import free_offset, lab_folder, need_servers
from tests.web.keyboard import fill_in, press, sat_down
from tests.web.rooms import until

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow, pytest.mark.browser]
SURE = ("--confirm", "pangyo", "--reason", "a tutorial")


def commands_of(page: Path) -> list[list[str]]:
    """What the reader types, in order."""
    return [line.split()[1:] for line in page.read_text().splitlines() if line.startswith("    evac lab ")]


def begin(words: list[str], folder: LabFolder) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evac", *words],
        env={**os.environ, "EVAC_LAB": str(folder.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(words: list[str], folder: LabFolder) -> str:
    with begin(words, folder) as process:
        text, _ = process.communicate()
    assert process.returncode == 0, text
    return text


def test_the_commands_of_the_page_and_an_approval_in_the_browser(
    project_root: Path, browser: Browser
) -> None:
    need_servers()
    up, burn, restore, report, down = commands_of(project_root / "docs" / "tutorials" / "burn-the-lab.md")
    with lab_folder() as folder:
        text = said([*up, "--offset", str(free_offset()), "--clients", "6"], folder)
        rooms = {site: url for url, site in re.findall(r"(http://\S+)/now in (\w+)", text)}
        assert set(rooms) == {"pangyo", "anyang", "ansan"}
        with begin([*burn, *SURE], folder) as fire:
            page = sat_down(browser, 390, "dark", scripts=True)
            page.goto(f"{rooms['anyang']}/now")
            until(
                lambda: "Start the run for the loss of pangyo?" in page.inner_text("main"),
                "the page says by itself what to do",
            )
            assert "1 of 1 service is down." in page.inner_text("h1")
            assert "if approved now" in page.inner_text("#impact")
            press(page, "Review and approve")
            assert "What this approval covers" in page.inner_text("main")
            fill_in(page, {"reason": "a tutorial", "who": "kim"}, "Approve")
            measured, _ = fire.communicate()
        assert fire.returncode == 0, measured
        assert "acknowledged messages lost: 0" in measured
        until(lambda: "Run succeeded" in page.inner_text("main"), "the page says that it is over")
        assert "Run the plan" not in page.inner_text("main")
        assert "succeeded" in said([*restore, *SURE], folder)
        assert "Fire 1: pangyo (burn)" in said(report, folder)
        assert "the lab is down" in said(down, folder)
        assert folder.read() is None
