"""The list for the floor on paper: A4, a head on every page, a box to tick for each server."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from evac.views.quarantine import Left, Quarantine, headline

_NAME = "quarantine.html.j2"


def quarantine_page(found: Quarantine, when: str) -> str:
    """One self-contained page. when: the moment it says it was made. Same input, same bytes."""
    parts = [
        ("Did not come up", "down", _by_hall(found.down)),
        ("Came up degraded", "degraded", _by_hall(found.degraded)),
    ]
    return _template().render(run=found.run, headline=headline(found), when=when, parts=parts)


def _by_hall(rows: tuple[Left, ...]) -> list[tuple[str, list[Left]]]:
    halls: dict[str, list[Left]] = {}
    for one in rows:
        halls.setdefault(one.hall, []).append(one)
    return list(halls.items())


@lru_cache(maxsize=1)
def _template() -> Template:
    text = resources.files("evac.views").joinpath("templates", _NAME).read_text("utf-8")
    environment = Environment(
        loader=DictLoader({_NAME: text}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_NAME)
