"""Which requests an agent believes."""

from __future__ import annotations

import pytest

from evac.agent.service import NONCES_KEPT, Gate, NotBelieved
from evac.drivers.process import client
from evac.model.errors import Permanent, Retryable
from evac.net.secrets import Secret

KEY = Secret("a key of more than sixteen bytes")
NOW = 1_000_000_000
NONCE = "0123456789abcdef0123456789abcdef"


class Clock:
    """A wall clock and a steady one, both set by the test."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 50_000

    def gate(self, window_ms: int = 30_000) -> Gate:
        return Gate(KEY, window_ms, lambda: self.wall, lambda: self.steady)


def headers(
    body: bytes = b"{}", at_ms: int = NOW, nonce: str = NONCE, path: str = "/v1/unit"
) -> dict[str, str]:
    signature = client.order_signature(KEY, "POST", path, body, at_ms, nonce)
    return {
        client.TIMESTAMP: str(at_ms),
        client.NONCE: nonce,
        client.SIGNATURE: signature,
    }


def test_a_signed_order_is_believed_and_admitted_once() -> None:
    gate = Clock().gate()
    assert gate.believe("POST", "/v1/unit", b"{}", headers()) == NONCE
    gate.admit(NOW, NONCE)
    with pytest.raises(Permanent, match="was here before"):
        gate.admit(NOW, NONCE)


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
    nonce = gate.believe("POST", "/v1/unit", b"{}", headers())
    with pytest.raises(Retryable, match="45000 ms apart") as caught:
        gate.admit(NOW, nonce)
    assert caught.value.code == "clock-skew"


def test_an_order_from_before_the_agent_started_is_not_admitted() -> None:
    clock = Clock()
    gate = clock.gate()
    with pytest.raises(Retryable, match="older than the agent") as caught:
        gate.admit(NOW - 700, NONCE)
    assert caught.value.after_ms == 700


def test_an_order_is_remembered_as_long_as_it_could_come_again_whatever_the_wall_clock_does() -> None:
    clock = Clock()
    gate = clock.gate()
    gate.admit(NOW + 29_000, NONCE)
    clock.wall += 10_000_000
    clock.steady += 20_000
    gate.admit(NOW + 20_000, "f" * 32)
    clock.wall = NOW - 7_200_000
    clock.steady += 39_000
    assert gate.now_ms() == NOW + 59_000
    with pytest.raises(Permanent, match="was here before"):
        gate.admit(NOW + 29_000, NONCE)


def test_too_many_orders_are_refused_and_none_is_forgotten() -> None:
    gate = Clock().gate()
    for number in range(NONCES_KEPT):
        gate.admit(NOW, f"{number:032d}")
    with pytest.raises(Retryable, match="too many"):
        gate.admit(NOW, NONCE)
    with pytest.raises(Permanent):
        gate.admit(NOW, f"{0:032d}")


def test_a_short_key_is_no_key() -> None:
    with pytest.raises(Permanent, match="shorter than 16 bytes"):
        Gate(Secret("hush", "env:KEY"), 1, lambda: 0, lambda: 0)


def test_an_answer_is_signed_for_its_own_order_only() -> None:
    one = client.answer_signature(KEY, 200, b"{}", NONCE)
    assert one == Clock().gate().sign(200, b"{}", NONCE)
    assert one != client.answer_signature(KEY, 200, b"{}", NONCE[::-1])
    assert one != client.answer_signature(KEY, 409, b"{}", NONCE)
