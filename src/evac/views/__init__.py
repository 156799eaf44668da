"""Values to text, JSON, SARIF, JUnit, Markdown, HTML and SVG."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def rendered(name: str, **context: Any) -> str:
    """A template of this package as one self-contained page; `style` is the style sheet of reports."""
    return _environment().get_template(name).render(context)


def in_style(words: str) -> str:
    """Words for the margin of a printed page. Nothing is escaped within a style sheet, so only few
    characters are kept.
    """
    return "".join(one if one.isalnum() or one in " .,:+-_/()" else " " for one in words)[:90]


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    from evac.views.words import spelled

    folder = resources.files("evac.views").joinpath("templates")
    made = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["spelled"] = spelled
    made.filters["in_style"] = in_style
    made.globals["style"] = Markup(folder.joinpath("report.css").read_text("utf-8"))
    return made
