"""What is particular to the driver `http`: keys, signatures, what each answer means, and URLs."""

from __future__ import annotations

import asyncio
import base64
import email.utils
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from evac.drivers.http import driver as http_driver
from evac.drivers.http.contract import signed_headers
from evac.drivers.http.driver import HttpDriver
from evac.drivers.port import Action, Evidence
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.net.http_calls import MAX_ANSWER_BYTES, Answer
from evac.net.secrets import Secret
from tests.contract.adapters.http import Receiver, action, serving
from tests.contract.capabilities.story import order
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with serving() as made:
        yield made


@pytest.fixture
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is left for another look after the first one, on any machine."""
    monkeypatch.setattr(http_driver, "_PAUSE_S", 1_000.0)


def execute(wanted: Action, **changes: Any) -> Any:
    """Executes it with a driver of its own."""

    async def story() -> Any:
        driver = HttpDriver()
        try:
            return await driver.execute(wanted, order(**changes))
        finally:
            await driver.close()

    return asyncio.run(story())


def observe(wanted: Action) -> Any:
    async def story() -> Any:
        driver = HttpDriver()
        try:
            return await driver.observe(wanted, order(timeout_s=2.0))
        finally:
            await driver.close()

    return asyncio.run(story())


def test_every_try_of_a_step_has_the_same_key_and_one_effect(receiver: Receiver) -> None:
    for attempt in (1, 2, 3):
        execute(action(receiver), attempt=attempt)
    assert receiver.effects == {'"run-1/step-1/execute"': 3}


def test_the_example_of_the_standard_is_signed_as_it_says() -> None:
    headers = signed_headers(
        Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        1_614_265_330,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, Permanent),
        (302, Permanent),
        (307, Permanent),
        (400, Permanent),
        (401, Permanent),
        (404, Permanent),
        (409, Permanent),
        (410, Permanent),
        (422, Permanent),
        (408, Retryable),
        (425, Retryable),
        (429, Retryable),
        (503, Retryable),
        (500, OutcomeUnknown),
        (502, OutcomeUnknown),
        (504, OutcomeUnknown),
    ],
)
def test_what_an_answer_means(receiver: Receiver, status: int, error: type[Exception]) -> None:
    receiver.answers = [(status, {"Location": receiver.url + "/do"}, b"")]
    with pytest.raises(error):
        execute(action(receiver))
    assert not receiver.done, "a redirect was followed"


@pytest.mark.parametrize(
    ("words", "least", "most"),
    [("7", 7_000, 7_000), ("soon", 0, 0), ("-5", 0, 0), ("9999999999", 3_600_000, 3_600_000)],
)
def test_it_waits_as_long_as_it_is_told(receiver: Receiver, words: str, least: int, most: int) -> None:
    receiver.answers = [(503, {"Retry-After": words}, b"")]
    with pytest.raises(Retryable) as caught:
        execute(action(receiver))
    assert least <= caught.value.after_ms <= most


def test_a_date_to_come_back_at_is_understood() -> None:
    at = email.utils.formatdate(1_000_030, usegmt=True)
    assert Answer(503, {"retry-after": at}, b"").after_ms(1_000_000.0) == 30_000
    assert Answer(503, {"retry-after": at}, b"").after_ms(2_000_000.0) == 0
    for wrong in (f"Wed, 21 Oct 2026 07:28{'9' * 40}", f"Fri, 31 Dec 9999 23:59:60 -{'9' * 40}"):
        assert Answer(503, {"retry-after": wrong}, b"").after_ms(1_000_000.0) == 0


def test_accepted_is_not_done_until_it_is_seen_done(receiver: Receiver, one_look: None) -> None:
    receiver.answers = [(202, {}, b"")]
    with pytest.raises(OutcomeUnknown, match="not observed as done"):
        execute(action(receiver))
    receiver.answers = [(202, {}, b"")]
    receiver.done = True
    assert execute(action(receiver))["status"] == 202
    receiver.answers = [(202, {}, b"")]
    with pytest.raises(OutcomeUnknown):
        execute(action(receiver, observe_url=""))


def test_nobody_there_and_a_connection_that_breaks_are_told_apart(receiver: Receiver) -> None:
    with pytest.raises(Retryable, match="cannot be reached"):
        execute(action(receiver, url=f"http://127.0.0.1:{free_port()}/do"))
    receiver.silent.set()
    with pytest.raises(OutcomeUnknown, match="did not answer"):
        execute(action(receiver), timeout_s=0.5)


def test_an_answer_without_end_is_not_read_to_its_end(receiver: Receiver) -> None:
    receiver.answers = [(200, {}, b"x" * (MAX_ANSWER_BYTES + 1))]
    with pytest.raises(OutcomeUnknown, match="more than"):
        execute(action(receiver))


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, {}, b'{"outcome":"done","a":1,"b":[1],"c":{"d":2}}'), "done"),
        ((200, {}, b'{"outcome":"absent"}'), "absent"),
        ((404, {}, b""), "absent"),
        ((200, {}, b'{"outcome":"perhaps"}'), "unclear"),
        ((200, {}, b"<html>"), "unclear"),
        ((200, {}, b"[]"), "unclear"),
        ((500, {}, b'{"outcome":"done"}'), "unclear"),
        ((302, {"Location": "/observe"}, b""), "unclear"),
    ],
)
def test_only_a_clear_word_is_clear(receiver: Receiver, answer: Any, outcome: str) -> None:
    receiver.answers = [answer]
    seen = observe(action(receiver, observe_url=receiver.url + "/observe-as-told"))
    assert seen.outcome == outcome
    assert all(isinstance(value, str | int | bool) for value in seen.evidence.values())


def test_a_verify_only_asks_and_takes_a_plain_good_answer(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = receiver.url + "/observe-as-told"
    look = Action(
        "verify", "chat", "http", "anyang", {"url": health, "method": "GET", "secret": "env:EVAC_TEST_HOOK"}
    )
    receiver.answers = [(503, {}, b""), (200, {}, b'{"site":"anyang"}')]
    assert execute(look)["said_site"] == "anyang"
    receiver.answers = [(503, {}, b"")]
    monkeypatch.setattr(http_driver, "_PAUSE_S", 1_000.0)  # no time is left for another look
    with pytest.raises(Retryable, match="it returned status 503"):
        execute(look)
    receiver.answers = [(200, {}, b'{"outcome":"absent"}')]
    assert observe(look).outcome == "absent"
    assert (receiver.done, receiver.effects) == (False, {})


def test_a_wrong_key_is_not_tried_again(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAC_TEST_HOOK", "whsec_" + base64.b64encode(b"another").decode())
    with pytest.raises(Permanent, match="returned status 401"):
        execute(action(receiver))
    monkeypatch.setenv("EVAC_TEST_HOOK", "whsec_%%%")
    with pytest.raises(Permanent, match="not base64"):
        execute(action(receiver))
    assert not receiver.done


@pytest.mark.parametrize(
    "url", ["ftp://x/", "file:///etc/passwd", "http://", "http://user:hush@127.0.0.1/", "x", "http://[::1/"]
)
def test_an_url_that_is_none_is_a_problem_and_never_shown_whole(receiver: Receiver, url: str) -> None:
    async def story() -> None:
        driver = HttpDriver()
        checked = await driver.check(action(receiver, url=url), order())
        assert not checked.ready
        assert "hush" not in str(checked)
        await driver.close()

    asyncio.run(story())


def test_what_nobody_can_ask_is_not_ready(receiver: Receiver) -> None:
    async def story() -> None:
        driver = HttpDriver()
        blind = action(receiver, observe_url="")
        assert not (await driver.check(blind, order())).ready
        assert (await driver.observe(blind, order())).outcome == "unclear"
        with pytest.raises(Permanent, match="undo_url is not set"):
            await driver.undo(action(receiver, undo_url=""), order())
        await driver.close()

    asyncio.run(story())


def test_a_driver_outlives_the_loop_it_was_first_used_in(receiver: Receiver) -> None:
    driver = HttpDriver()
    first = asyncio.run(driver.execute(action(receiver), order()))

    async def again() -> Evidence:
        try:
            return await driver.execute(replace(action(receiver), target="other"), order())
        finally:
            await driver.close()

    assert asyncio.run(again()) == first
    assert receiver.done
