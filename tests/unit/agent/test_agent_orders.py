"""Which orders an agent believes, and which of those it admits."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from evac.agent.gate import NONCES_KEPT, Believed, Gate, Identity, Keys, NotBelieved
from evac.drivers.process import client
from evac.drivers.process.client import AgentAt
from evac.model.errors import Permanent, Retryable
from evac.net.secrets import Secret

KEY = Secret("a key of more than sixteen bytes", "env:ORDER_KEY")
NOW = 1_000_000_000
NONCE = "0123456789abcdef0123456789abcdef"
HERE = AgentAt("pangyo", "https://Agent.pangyo.example:7070", "env:ORDER_KEY").addressee


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDER_KEY", KEY.reveal())


class Clock:
    """A wall clock and a steady one, both set by the test."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 50_000
        self.addresses = frozenset({HERE.address})

    def gate(self, window_ms: int = 30_000, kept: Path | None = None, older: bool = False) -> Gate:
        own = Identity("pangyo", lambda: self.addresses, older)
        return Gate(Keys(["env:ORDER_KEY"]), own, window_ms, lambda: self.wall, lambda: self.steady, kept)


def headers(
    body: bytes = b"{}",
    at_ms: int = NOW,
    nonce: str = NONCE,
    path: str = "/v1/unit",
    to: client.Addressee = HERE,
    version: str = client.VERSION,
) -> dict[str, str]:
    return {
        client.TIMESTAMP: str(at_ms),
        client.NONCE: nonce,
        client.SITE: to.site,
        client.ADDRESS: to.address,
        client.SIGNATURE: client.order_signature(KEY, "POST", path, body, at_ms, nonce, to, version),
    }


def order(at_ms: int = NOW, nonce: str = NONCE) -> Believed:
    return Believed(nonce, at_ms, HERE.site, HERE.address, KEY, client.VERSION)


def test_a_signed_order_is_believed_and_admitted_once() -> None:
    gate = Clock().gate()
    believed = gate.believe("POST", "/v1/unit", b"{}", headers())
    assert believed == order()
    gate.admit(believed)
    with pytest.raises(Permanent, match="was already received"):
        gate.admit(believed)


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (replace(HERE, site="anyang"), "the agent of anyang, and this is the agent of pangyo"),
        (replace(HERE, address="10.2.0.8:7070"), "at 10.2.0.8:7070; this one is at agent.pangyo.example"),
        (replace(HERE, address="agent.pangyo.example:7071"), "add addresses = "),
    ],
)
def test_an_order_for_another_agent_is_refused_though_its_key_is_the_same(
    to: client.Addressee, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when it is repeated, which fills no log."""
    gate = Clock().gate()
    believed = gate.believe("POST", "/v1/unit", b"{}", headers(to=to))
    for _ in range(3):
        with pytest.raises(Permanent) as caught:
            gate.admit(believed)
        assert caught.value.code == "order-elsewhere"
    assert len(caplog.records) == (to.site != HERE.site)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_an_order_cannot_be_given_another_name_on_the_way() -> None:
    with pytest.raises(NotBelieved):
        Clock().gate().believe(
            "POST", "/v1/unit", b"{}", headers(to=replace(HERE, site="anyang")) | {client.SITE: "pangyo"}
        )


def test_an_order_that_names_no_agent_is_refused_unless_the_file_says_so() -> None:
    older = headers(version=client.OLDER)
    del older[client.SITE], older[client.ADDRESS]
    gate = Clock().gate()
    believed = gate.believe("POST", "/v1/unit", b"{}", older)
    with pytest.raises(Permanent, match="does not name an agent") as caught:
        gate.admit(believed)
    assert caught.value.code == "order-older"
    gate = Clock().gate(older=True)
    believed = gate.believe("POST", "/v1/unit", b"{}", older)
    gate.admit(believed)
    assert gate.sign(200, b"", believed).startswith(client.OLDER), "an older controller reads the answer"


def test_a_recorded_order_is_refused_after_a_start_with_a_clock_that_was_set_back(tmp_path: Path) -> None:
    clock, kept = Clock(), tmp_path / "newest.json"
    recorded = order(NOW + 20_000)
    clock.gate(kept=kept).admit(recorded)
    for back_ms in (0, 20_000, 86_400_000):
        clock.wall = NOW - back_ms
        gate = clock.gate(kept=kept)
        assert gate.now_ms() > recorded.at_ms, "time goes on after the newest order, whatever the clock says"
        with pytest.raises(Retryable) as caught:
            gate.admit(recorded)
        assert caught.value.code in client.CLOCK_CODES
        gate.admit(order(gate.now_ms(), "f" * 32))


def test_a_clean_end_leaves_the_time_where_it_was(tmp_path: Path) -> None:
    clock, kept = Clock(), tmp_path / "newest.json"
    gate = clock.gate(kept=kept)
    gate.admit(order(NOW + 7))
    gate.close()
    assert clock.gate(kept=kept).now_ms() == NOW + 8


def test_a_disk_that_is_full_admits_nothing_and_says_so(tmp_path: Path) -> None:
    gate = Clock().gate(kept=tmp_path / "newest.json")
    (tmp_path / "newest.json.new").mkdir()
    with pytest.raises(Retryable, match="cannot record") as caught:
        gate.admit(order())
    assert caught.value.code == "agent-disk"
    (tmp_path / "newest.json.new").rmdir()
    gate.admit(order())


def test_a_key_is_replaced_without_a_moment_in_which_orders_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says what the guide says that it says."""
    monkeypatch.setenv("NEW_KEY", "another key of more than sixteen bytes")
    keys = Keys(["env:ORDER_KEY"])
    own = Identity("pangyo", lambda: frozenset({HERE.address}))
    gate = Gate(keys, own, 30_000, lambda: NOW, lambda: 0)
    with caplog.at_level(logging.INFO, "evac.agent"):
        keys.read_again(["env:NEW_KEY", "env:ORDER_KEY"])
    (said,) = caplog.messages
    guide = Path(__file__).parents[3] / "docs/how-to/rotate-a-key.md"
    assert f"`{said}`" in guide.read_text(encoding="utf-8")
    believed = gate.believe("POST", "/v1/unit", b"{}", headers())
    assert gate.sign(200, b"{}", believed) == client.answer_signature(KEY, 200, b"{}", NONCE)
    keys.read_again(["env:MISSING"])
    assert "secret-missing" in keys.problem
    gate.believe("POST", "/v1/unit", b"{}", headers())
    keys.read_again(["env:NEW_KEY"])
    assert not keys.problem
    with pytest.raises(NotBelieved):
        gate.believe("POST", "/v1/unit", b"{}", headers())


@pytest.mark.parametrize(
    ("method", "path", "body", "changed"),
    [
        ("GET", "/v1/unit", b"{}", {}),
        ("POST", "/v1/act", b"{}", {}),
        ("POST", "/v1/unit?x=1", b"{}", {}),
        ("POST", "/v1/unit", b"{ }", {}),
        ("POST", "/v1/unit", b"{}", {client.TIMESTAMP: str(NOW + 1)}),
        ("POST", "/v1/unit", b"{}", {client.TIMESTAMP: "-1"}),
        ("POST", "/v1/unit", b"{}", {client.TIMESTAMP: ""}),
        ("POST", "/v1/unit", b"{}", {client.NONCE: NONCE[::-1]}),
        ("POST", "/v1/unit", b"{}", {client.NONCE: "short"}),
        ("POST", "/v1/unit", b"{}", {client.SIGNATURE: ""}),
        ("POST", "/v1/unit", b"{}", {client.SIGNATURE: "v1=äöü"}),
    ],
)
def test_nothing_may_be_changed_on_the_way(
    method: str, path: str, body: bytes, changed: dict[str, str]
) -> None:
    with pytest.raises(NotBelieved):
        Clock().gate().believe(method, path, body, headers() | changed)


def test_clocks_that_are_apart_are_told_apart_from_a_wrong_key() -> None:
    clock = Clock()
    gate = clock.gate()
    clock.steady += 45_000
    believed = gate.believe("POST", "/v1/unit", b"{}", headers())
    with pytest.raises(Retryable, match="differ by 45000 ms") as caught:
        gate.admit(believed)
    assert caught.value.code == "clock-skew"


def test_an_order_from_before_the_agent_started_is_not_admitted() -> None:
    clock = Clock()
    gate = clock.gate()
    with pytest.raises(Retryable, match="before the agent started") as caught:
        gate.admit(order(NOW - 700))
    assert caught.value.after_ms == 700


def test_an_order_is_remembered_as_long_as_it_could_come_again_whatever_the_wall_clock_does() -> None:
    clock = Clock()
    gate = clock.gate()
    gate.admit(order(NOW + 29_000))
    clock.wall += 10_000_000
    clock.steady += 20_000
    gate.admit(order(NOW + 20_000, "f" * 32))
    clock.wall = NOW - 7_200_000
    clock.steady += 39_000
    assert gate.now_ms() == NOW + 59_000
    with pytest.raises(Permanent, match="was already received"):
        gate.admit(order(NOW + 29_000))


def test_too_many_orders_are_refused_and_none_is_forgotten() -> None:
    gate = Clock().gate()
    for number in range(NONCES_KEPT):
        gate.admit(order(nonce=f"{number:032d}"))
    with pytest.raises(Retryable, match="too many"):
        gate.admit(order())
    with pytest.raises(Permanent):
        gate.admit(order(nonce=f"{0:032d}"))


def test_a_short_key_is_no_key_and_neither_are_none_or_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "hush")
    with pytest.raises(Permanent, match="shorter than 16 bytes"):
        Keys(["env:ORDER_KEY", "env:SHORT"])
    for references in ([], ["env:ORDER_KEY"] * 5):
        with pytest.raises(Permanent, match="1 to 4 keys"):
            Keys(references)


def test_an_answer_is_signed_for_its_own_order_only() -> None:
    one = client.answer_signature(KEY, 200, b"{}", NONCE)
    assert one == Clock().gate().sign(200, b"{}", order())
    assert one != client.answer_signature(KEY, 200, b"{}", NONCE[::-1])
    assert one != client.answer_signature(KEY, 409, b"{}", NONCE)
