"""Why a server did not come up: stable codes, words for people, what on-site staff do, and whether it may
still draw power.

One table, used by the drivers that raise the codes, by the run that frees what a server held, and by the
hands-on list.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class BootCode:
    """`words`: what is wrong; `remedy`: what a person has to do; `draws`: it may still draw power, so its
    watts count.
    """

    words: str
    remedy: str
    draws: bool


BOOTING: Final = "booting"
"""`state` in the evidence of a boot check: the right server, on, and certainly not up yet."""

BOOT_CODES: Final = MappingProxyType(
    {
        "bmc-silent": BootCode(
            "its management controller does not answer",
            "check the cable and switch port, then the power supply; boot by hand",
            False,
        ),
        "bmc-hanging": BootCode(
            "its management controller accepts connections but does not answer",
            "reset the management controller (pull both power cords for 30 s)",
            True,
        ),
        "bmc-half-dead": BootCode(
            "its management controller answers, but not for this server",
            "reset the management controller (pull both power cords for 30 s)",
            True,
        ),
        "bmc-busy": BootCode(
            "its management controller is busy: too many sessions, or restarting",
            "wait ten minutes, then retry",
            True,
        ),
        "bmc-lying": BootCode(
            "its management controller reports success, but the power state does not change",
            "check the power light; press the button; replace the controller",
            True,
        ),
        "bmc-tls": BootCode(
            "its certificate is not the pinned one",
            "compare the serial number on the server; then renew the pin or the certificate",
            False,
        ),
        "bmc-wrong-serial": BootCode(
            "another machine answers at this address",
            "compare the serial number on the server with the inventory; fix the address or the cable",
            False,
        ),
        "credentials-refused": BootCode(
            "user name or password rejected",
            "fix evac's password before trying anything else",
            False,
        ),
        "bmc-password": BootCode(
            "its management controller rejects the user name or password that others accept",
            "set the same password as on the others, then retry; or boot by hand",
            False,
        ),
        "bmc-not-allowed": BootCode(
            "the user has no permission to control power",
            "give the user permission to control power",
            False,
        ),
        "bmc-unsupported": BootCode(
            "its management controller cannot do this",
            "boot by hand; update the controller's firmware",
            False,
        ),
        "server-power-fault": BootCode(
            "the power does not come on",
            "check both power supplies and the outlet",
            True,
        ),
        "server-no-boot": BootCode(
            "the power is on, but the system does not come up",
            "attach a screen: disks, file system or RAID may need a check first",
            True,
        ),
        "server-boot-loop": BootCode(
            "it keeps restarting",
            "attach a screen: the disks, memory or image are faulty",
            True,
        ),
        "server-wrong-image": BootCode(
            "it came up with the image of another server",
            "check the boot order and the boot server, then boot again",
            True,
        ),
    }
)
"""Code -> its meaning. `draws` holds unless the server has been seen off since."""
