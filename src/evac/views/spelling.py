"""What is to be typed, told apart in a sentence: between backticks in text, as code in HTML. Pure."""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

_TYPED: Final = re.compile(r"`([^`]+)`")


def spelled(text: str) -> Markup:
    """A sentence as HTML, with everything else in it escaped."""
    found = _TYPED.split(text)
    parts = [
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(found)
    ]
    return Markup("").join(parts)
