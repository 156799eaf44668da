"""Why a server did not come up: stable codes, words for people, what to do on the floor, and whether it may
still draw power.

One table, read by the drivers that raise the codes, by the run that frees what a server held, and by the list
for the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class BootCode:
    """`words`: what is wrong; `remedy`: what a person has to do; `draws`: it may still draw power, so its
    watts count.
    """

    words: str
    remedy: str
    draws: bool


BOOTING: Final = "booting"
"""`state` in the evidence of a boot check: it is the right server, it is on, and certainly not up yet."""

BOOT_CODES: Final = MappingProxyType(
    {
        "bmc-silent": BootCode(
            "its management controller does not answer",
            "check cable and switch port, then the power supply; boot by hand",
            False,
        ),
        "bmc-hanging": BootCode(
            "its management controller takes connections and never answers",
            "reset the management controller (pull both power cords for 30 s)",
            True,
        ),
        "bmc-half-dead": BootCode(
            "its management controller answers, but not about the server",
            "reset the management controller (pull both power cords for 30 s)",
            True,
        ),
        "bmc-busy": BootCode(
            "its management controller refuses: too many sessions, or restarting",
            "wait ten minutes, then retry",
            True,
        ),
        "bmc-lying": BootCode(
            "its management controller says done, and the power state does not change",
            "look at the power light; press the button; replace the controller",
            True,
        ),
        "bmc-tls": BootCode(
            "its certificate is not the one that is known",
            "compare the serial number on the box; then renew pin or certificate",
            False,
        ),
        "bmc-wrong-serial": BootCode(
            "another machine answers at this address",
            "compare the serial number on the server with the inventory; fix the address or the cable",
            False,
        ),
        "credentials-refused": BootCode(
            "user name or password refused",
            "fix evac's password before you try anything else",
            False,
        ),
        "bmc-password": BootCode(
            "its management controller refuses the user name or password that others accept",
            "give it the password of the others, then retry; or boot by hand",
            False,
        ),
        "bmc-not-allowed": BootCode(
            "the user may not switch the power",
            "give the user the right to control power",
            False,
        ),
        "bmc-unsupported": BootCode(
            "its management controller cannot do this",
            "boot by hand; update the controller",
            False,
        ),
        "server-power-fault": BootCode(
            "the power does not come on",
            "check both power supplies and the outlet",
            True,
        ),
        "server-no-boot": BootCode(
            "power is on, and the system does not come up",
            "attach a screen: disks, file system or RAID may need a check first",
            True,
        ),
        "server-boot-loop": BootCode(
            "it starts again and again",
            "attach a screen: disks, memory or image are broken",
            True,
        ),
        "server-wrong-image": BootCode(
            "it came up with the image of another server",
            "check boot order and boot server, then boot again",
            True,
        ),
    }
)
"""Code -> its meaning. `draws` holds unless the server has been seen off since."""
