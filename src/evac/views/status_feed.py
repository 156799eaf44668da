"""The feed of a status page: RSS 2.0, one item for each published update."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from typing import Final
from xml.sax.saxutils import escape

from evac.incident.components import StatusPage

ITEMS_MOST: Final = 200
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def status_feed(page: StatusPage, link: str) -> str:
    """link: the address of the page. Newest first, at most ITEMS_MOST. Same input, same bytes."""
    items = [
        (update.at_ms, update.title or one.title, update.text)
        for one in page.incidents
        for update in one.updates
    ]
    items.sort(key=lambda item: (-item[0], item[1], item[2]))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<rss version="2.0">',
        "<channel>",
        f"<title>{_text(page.title)}</title>",
        f"<link>{_text(link)}</link>",
        f"<description>{_text(page.title)}: published updates</description>",
        f"<lastBuildDate>{_date(page.made_ms)}</lastBuildDate>",
    ]
    for at_ms, title, text in items[:ITEMS_MOST]:
        guid = sha256(f"{at_ms}\0{title}\0{text}".encode()).hexdigest()
        lines += [
            "<item>",
            f"<title>{_text(title)}</title>",
            f"<description>{_text(text)}</description>",
            f'<guid isPermaLink="false">{guid}</guid>',
            f"<pubDate>{_date(at_ms)}</pubDate>",
            "</item>",
        ]
    return "\n".join([*lines, "</channel>", "</rss>", ""])


def _text(words: str) -> str:
    return escape(_CONTROL.sub(" ", words))


def _date(at_ms: int) -> str:
    """As RFC 822 has it, which RSS asks for."""
    return format_datetime(datetime.fromtimestamp(at_ms // 1000, UTC))
