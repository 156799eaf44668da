"""What the bodies of requests take for a number: whole ones, however JSON writes them."""

import pytest
from pydantic import ValidationError

from evac.web.api.shapes import Ask


def test_a_whole_number_may_be_written_with_a_point() -> None:
    told = '{"verb": "pause", "reason": "inside", "for_ms": 60000.0, "evidence": {"rows": 3.0, "sure": true}}'
    asked = Ask.model_validate_json(told)
    assert (asked.for_ms, asked.evidence) == (60_000, {"rows": 3, "sure": True})
    assert asked.evidence["sure"] is True


@pytest.mark.parametrize("number", ["0.5", "true", "1e400", "-1.0", "1e300", '"5"'])
def test_anything_else_is_refused(number: str) -> None:
    with pytest.raises(ValidationError):
        Ask.model_validate_json(f'{{"verb": "pause", "reason": "inside", "for_ms": {number}}}')
