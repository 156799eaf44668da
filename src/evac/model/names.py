"""When two names belong to one person: the form in which names are compared wherever people are counted.

A person with two names would count as two people among approvers. So names that a reader may confuse
count as one: they differ only in case, in the form of letters, in spaces, in invisible characters, or in
letters of another alphabet that look the same. The last follows Unicode's list of confusable characters
(UTS 39) for Cyrillic and Greek, whose letters can spell a whole Latin name.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_SHAPES: Final = str.maketrans(
    "авеһніјкӏморԛѕстуѵԝхԁьαβεζηικμνορτυχωıɡɑ",
    "abehhijklmopqsctyvwxdbabezhikmnoptyxwiga",
)
"""Small letters of Cyrillic and Greek, and rare Latin ones -> what they, or their capitals, look like."""
_IGNORABLE: Final = (
    *(range(0xAD, 0xAE), range(0x34F, 0x350), range(0x61C, 0x61D), range(0x115F, 0x1161)),
    *(range(0x17B4, 0x17B6), range(0x180B, 0x1810), range(0x200B, 0x2010), range(0x202A, 0x202F)),
    *(range(0x2060, 0x2070), range(0x3164, 0x3165), range(0xFE00, 0xFE10), range(0xFEFF, 0xFF00)),
    *(range(0xFFA0, 0xFFA1), range(0xFFF0, 0xFFF9), range(0x1BCA0, 0x1BCA4), range(0x1D173, 0x1D17B)),
    range(0xE0000, 0xE1000),
)
"""Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt, 15.0): shown as nothing."""
_BLANK: Final = str.maketrans("\u2800", " ")
"""The Braille pattern without dots, which looks like a space."""


def alike(name: str) -> str:
    """The form in which names are compared: equal for names that look the same."""
    bare = "".join(one for one in name if not is_invisible(one)).translate(_BLANK)
    small = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", bare).casefold())
    seen = "".join(one for one in small if not is_invisible(one))
    return " ".join(seen.translate(_SHAPES).split())


def is_plain(text: str) -> bool:
    """Whether a text is one line in which every character shows, or is a space."""
    return text.isprintable() and not any(is_invisible(one) for one in text)


def is_invisible(character: str) -> bool:
    """Whether a character shows nothing at all, not even a space."""
    code = ord(character)
    return any(code in one for one in _IGNORABLE) or (
        unicodedata.category(character) in ("Cc", "Cf") and not character.isspace()
    )
