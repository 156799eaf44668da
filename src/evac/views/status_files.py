"""The three files of a public status page."""

from __future__ import annotations

from evac.incident.components import StatusPage
from evac.views.status_feed import status_feed
from evac.views.status_page import status_html, status_json


def status_files(page: StatusPage, url: str) -> tuple[str, str, str]:
    """(the page, its feed, the same as JSON). url: the address of the page, for the feed."""
    return status_html(page), status_feed(page, url), status_json(page)
