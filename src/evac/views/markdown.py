"""Problems as Markdown, for a pull request, a ticket or a step summary."""

from __future__ import annotations

from collections.abc import Sequence

from evac.views.alerts import Alert, counts
from evac.views.words import listed, plural


def alerts_markdown(title: str, alerts: Sequence[Alert]) -> str:
    """A heading, one line of counts, and a table; every cell is escaped."""
    found = counts(alerts)
    summary = ", ".join(plural(found[s], s) for s in found if found[s]) or "nothing found"
    lines = [f"# {_cell(title)}", "", f"{summary}.", ""]
    if alerts:
        lines += ["| severity | rule | subject | what | what to do | where |", "|---|---|---|---|---|---|"]
        lines += [_row(alert) for alert in alerts]
        lines.append("")
    return "\n".join(lines)


def _row(alert: Alert) -> str:
    where = str(alert.place) if alert.place.file else ""
    what = alert.message + (f" ({listed(list(alert.domains), 3)})" if alert.domains else "")
    cells = (alert.severity, alert.rule, alert.subject, what, alert.fix, where)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(words: str) -> str:
    for character in "\\`*_<>[]|#":
        words = words.replace(character, "\\" + character if character != "<" else "&lt;")
    return words.replace("\n", " ").replace("\r", " ")
