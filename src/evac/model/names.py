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
_UNSEEN: Final = frozenset("\u034f\u115f\u1160\u3164")
"""Invisible characters that Unicode does not classify as format characters."""


def alike(name: str) -> str:
    """The form in which names are compared: equal for names that look the same."""
    small = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    hidden = {one for one in small if one in _UNSEEN or unicodedata.category(one) in ("Cc", "Cf")}
    seen = "".join(one for one in small if one not in hidden)
    return " ".join(seen.translate(_SHAPES).split())
