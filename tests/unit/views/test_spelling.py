"""What is to be typed stands as code in HTML, and nothing of a name becomes HTML."""

from __future__ import annotations

import pytest

from evac.views.words import spelled


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Say `as_of:` or pass --as-of.", "Say <code>as_of:</code> or pass --as-of."),
        ("`a` and `b<c>`", "<code>a</code> and <code>b&lt;c&gt;</code>"),
        ("<i>`</i> alone", "&lt;i&gt;`&lt;/i&gt; alone"),
        ("``", "``"),
        ("", ""),
    ],
)
def test_code_between_backticks(text: str, html: str) -> None:
    assert str(spelled(text)) == html
