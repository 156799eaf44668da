"""evac notices: what a file says, one message over each channel, keys that a receiver can verify with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evac.app.controlling import Setting
from evac.cli import serve_command
from evac.cli.program import run
from evac.model.errors import EstateError, InvalidInput
from tests.unit.app.receivers import Receiver

ESTATE = Path(__file__).parents[2] / "fixtures" / "estates" / "small"
TEXT = """
channels:
  desk: {webhook: env:DESK_URL, secret: env:DESK_KEY, kinds: [plan, site], least: info}
  chat: {apprise: env:CHAT_URL}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "notices.yaml"
    found.write_text(TEXT)
    return found


def test_a_file_is_told_and_a_wrong_one_with_its_places(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["notices", "check", str(file)]) == 0
    assert capsys.readouterr().out == (
        "chat: apprise, all kinds, warning and above\ndesk: webhook, plan, site, info and above\n"
    )
    assert run(["notices", "check", str(file), "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["channels"]["desk"] == {"way": "webhook", "kinds": ["plan", "site"], "least": "info"}
    file.write_text("channels:\n  a: {apprise: 'slack://hunter2'}\n")
    assert run(["notices", "check", str(file)]) == 2
    said = capsys.readouterr()
    assert "notices.yaml:2:16" in said.out + said.err
    assert "hunter2" not in said.out + said.err


@pytest.mark.enable_socket
def test_a_test_message_goes_over_each_channel_that_is_named(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["notices", "key", "--quiet"]) == 0
    key = capsys.readouterr().out.strip()
    with Receiver(key) as desk:
        monkeypatch.setenv("DESK_URL", desk.url)
        monkeypatch.setenv("DESK_KEY", key)
        assert run(["notices", "test", str(file), "--channel", "desk"]) == 0
        assert capsys.readouterr().out == "desk: sent\n"
        assert desk.got[0][1]["data"]["words"].startswith("this is a test")
        assert run(["notices", "test", str(file)]) == 1
        assert "chat: " in capsys.readouterr().out
        assert len(desk.got) == 2
    assert run(["notices", "test", str(file), "--channel", "desks"]) == 2


def test_serve_takes_the_file_beside_the_estate_and_refuses_a_wrong_one_at_once(
    tmp_path: Path, file: Path
) -> None:
    setting = Setting(ESTATE, "north", "sqlite:/x", watch=False)
    assert serve_command._notices(setting, None) is None
    told = serve_command._notices(setting, file)
    assert told is not None
    assert told[told.index("--notices") + 1] == str(file)
    beside = Setting(tmp_path, "north", "sqlite:/x", watch=False)
    assert serve_command._notices(beside, None) is not None
    with pytest.raises(InvalidInput, match="memory"):
        serve_command._notices(Setting(ESTATE, "north", "memory:", watch=False), file)
    file.write_text("channels: {}\n")
    with pytest.raises(EstateError):
        serve_command._notices(beside, None)


def test_serve_sends_traces_only_where_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(ESTATE, "north", "sqlite:/x", watch=False)
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert serve_command._traces(setting) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert serve_command._traces(setting) == ["--store", "sqlite:/x", "--site", "north"]
