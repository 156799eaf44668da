"""What the program `ipmitool` writes, and what that means: only its words about the command count."""

from __future__ import annotations

import pytest

from evac.drivers.credentials import Refused
from evac.drivers.ipmi.driver import IpmiTarget, Unanswered, understood
from evac.drivers.programs import Ended
from evac.model.errors import ActionError, Permanent, Retryable

TARGET = IpmiTarget(
    host="192.0.2.7",
    port="623",
    server="web-1",
    serial="",
    network="",
    boot_ms=0,
    user="evac",
    password="file:/secret",
    program="ipmitool",
    privilege="ADMINISTRATOR",
    cipher="",
    boot_source="none",
    requests_at_once=1,
    refusals_at_most=5,
    answer_s=10.0,
)

PREAMBLE = """\
Loading IANA PEN Registry...
Using best available cipher suite 3
Running Get PICMG Properties my_addr 0x20, transit 0, target 0
Error response 0xc1 from Get PICMG Properities
Running Get VSO Capabilities my_addr 0x20, transit 0, target 0
Invalid completion code received: {why}
Discovered IPMB address 0x0
"""
"""Before every command: most controllers know neither PICMG nor VSO."""


def meant(words: str) -> ActionError:
    with pytest.raises(ActionError) as found:
        understood(TARGET, Ended(code=1, output=words, whole=True))
    return found.value


@pytest.mark.parametrize("why", ["Invalid command", "Node busy", "Insufficient privilege level"])
@pytest.mark.parametrize(
    "words",
    ["Unable to set Chassis Power Control to Up/On\n", "Error sending Chassis Status command\n", ""],
)
def test_a_reason_that_belongs_to_another_question_is_none(why: str, words: str) -> None:
    """A request that was not answered may have arrived."""
    error = meant(PREAMBLE.format(why=why) + words)
    assert isinstance(error, Unanswered)
    assert error.code == "bmc-half-dead"


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        ("Invalid command", Permanent, "bmc-unsupported"),
        ("Command not supported in present state", Permanent, "bmc-unsupported"),
        ("Insufficient privilege level", Permanent, "bmc-not-allowed"),
        ("Node busy", Retryable, "bmc-busy"),
    ],
)
def test_a_reason_of_the_command_counts(reason: str, kind: type[ActionError], code: str) -> None:
    error = meant(
        PREAMBLE.format(why="Invalid command") + f"Set Chassis Power Control to Up/On failed: {reason}\n"
    )
    assert (type(error), error.code) == (kind, code)


def test_a_session_that_is_not_opened_is_silence_or_a_refusal() -> None:
    words = "Error: Unable to establish IPMI v2 / RMCP+ session\n"
    assert (type(meant(words)), meant(words).code) == (Retryable, "bmc-silent")
    assert isinstance(meant("RAKP 2 HMAC is invalid\n" + words), Refused)
