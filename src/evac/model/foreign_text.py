"""Text that others wrote, made safe to print: tools, servers and files can contain what steers a terminal."""

from __future__ import annotations

from typing import Final

_STEERS: Final = dict.fromkeys(
    (
        *(n for n in range(0x20) if n not in (0x09, 0x0A)),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),  # a byte in a file name that is not UTF-8: no output can encode it
    ),
    "\ufffd",
)
_BREAKS: Final = dict.fromkeys((0x09, 0x0A, 0x2028, 0x2029), " ")


def without_controls(text: str) -> str:
    """The text without characters that control a terminal or change the direction of text."""
    return text.translate(_STEERS)


def one_line(text: str) -> str:
    """The text also without line breaks: a program that reads the output, as a CI system does, takes no line
    of it for a command.
    """
    return without_controls(text.translate(_BREAKS))
