"""What forms of pages send, and what is said on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from evac.model.errors import EvacError, InvalidInput


def fields_of(body: bytes, most: int, strict: bool = False) -> dict[str, str]:
    """The fields of a form, `most` of them; the last one of a name counts. strict: nothing but fields may
    stand there. Raises InvalidInput.
    """
    try:
        found = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=most, strict_parsing=strict)
    except ValueError as error:
        raise InvalidInput(
            "request-invalid", "this is no form of this page", "go back, and fill it in"
        ) from error
    return dict(found)


def confirmed(fields: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """What was typed of the names that must be, where nothing is missing and a reason is given. Raises
    InvalidInput.
    """
    typed = fields.get("typed", "").replace(",", " ").split()
    missing = [name for name in names if name not in typed]
    if missing:
        raise InvalidInput("not-confirmed", f"type {' '.join(missing)} to confirm", "nothing was asked")
    if not fields.get("reason", "").strip():
        raise InvalidInput("reason", "say why: it stands in the journal")
    return [name for name in typed if name in names]


def sentence(error: EvacError) -> str:
    """A problem in the words of a form."""
    hint = f" ({error.hint})" if error.hint else ""
    return f"{error.message[:1].upper()}{error.message[1:]}{hint}."
