"""When two names are one person's: what names are compared by wherever persons are counted.

A person who goes by two names would be two persons to anyone who counts approvals. So names that a reader may
take for each other are one name: they differ only in case, in the form of letters, in spaces, in characters
that cannot be seen, or in letters of another alphabet that look the same. The last follows Unicode's list of
confusable characters (UTS 39) for Cyrillic and Greek, whose letters can spell a whole Latin name.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_SHAPES: Final = str.maketrans(
    "авеһніјкӏморԛѕстуѵԝхԁьαβεζηικμνορτυχωıɡɑ",
    "abehhijklmopqsctyvwxdbabezhikmnoptyxwiga",
)
"""Small letters of Cyrillic and Greek, and rare Latin ones -> what they, or their capitals, look like."""
_UNSEEN: Final = frozenset("\u034f\u115f\u1160\u3164")
"""Characters without a shape that are no format characters to Unicode."""


def alike(name: str) -> str:
    """What names are compared by: the same for names that look the same."""
    small = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    hidden = {one for one in small if one in _UNSEEN or unicodedata.category(one) in ("Cc", "Cf")}
    seen = "".join(one for one in small if one not in hidden)
    return " ".join(seen.translate(_SHAPES).split())
