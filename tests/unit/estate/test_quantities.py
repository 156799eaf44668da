"""Quantities: exact, rounded once in the cautious direction, and back to text without a change."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.estate.format import quantities as q
from evac.estate.format.quantities import Quantity, QuantityError
from evac.model.estate import Rate
from evac.model.units import QUANTITY_LIMIT

ALL = [value for value in vars(q).values() if isinstance(value, Quantity) and value.shown != ("%",)]


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        (q.DURATION, "90 s", 90_000),
        (q.DURATION, "1.5 h", 5_400_000),
        (q.DURATION, "0.1 ms", 1),
        (q.DURATION, "2w", 1_209_600_000),
        (q.COUNT, "30 M", 30_000_000),
        (q.COUNT, "1.5k", 1_500),
        (q.COUNT, "42", 42),
        (q.CORES_HELD, "4 cores", 4_000),
        (q.CORES_HELD, "1 core", 1_000),
        (q.CORES_NEEDED, "250 mCPU", 250),
        (q.MEMORY_HELD, "16 TiB", 16 * 2**20),
        (q.MEMORY_HELD, "1 GB", 953),
        (q.MEMORY_NEEDED, "1 GB", 954),
        (q.DISK_HELD, "1 TB", 931),
        (q.DISK_NEEDED, "1 TB", 932),
        (q.BANDWIDTH_HELD, "400 Gbit/s", 400_000),
        (q.BANDWIDTH_NEEDED, "1 bit/s", 1),
        (q.BANDWIDTH_HELD, "1 bit/s", 0),
        (q.POWER_HELD, "2.5 MW", 2_500_000),
        (q.DAYS, "36 d", 36),
        (q.DAYS, "2 w", 14),
    ],
)
def test_known_texts(quantity: Quantity, text: str, value: int) -> None:
    assert q.parse(quantity, text) == value


@given(quantity=st.sampled_from(ALL), value=st.one_of(st.integers(0, 10**6), st.integers(0, QUANTITY_LIMIT)))
def test_shown_text_is_read_back_exactly(quantity: Quantity, value: int) -> None:
    assert q.parse(quantity, q.show(quantity, value)) == value


@given(
    quantity=st.sampled_from(ALL),
    number=st.decimals(0, 10**6, places=4, allow_nan=False),
    data=st.data(),
)
def test_rounding_is_by_less_than_one_and_cautious(
    quantity: Quantity, number: object, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(sorted(quantity.units)))
    exact = Fraction(str(number)) * quantity.units[unit]
    if exact > QUANTITY_LIMIT:
        with pytest.raises(QuantityError):
            q.parse(quantity, f"{number} {unit}")
        return
    if quantity.bare and exact.denominator != 1:
        with pytest.raises(QuantityError, match="not a whole number"):
            q.parse(quantity, f"{number} {unit}")
        return
    value = q.parse(quantity, f"{number} {unit}")
    assert 0 <= (value - exact if quantity.up else exact - value) < 1


@given(value=st.fractions(Fraction(1, QUANTITY_LIMIT), 1, max_denominator=QUANTITY_LIMIT))
def test_shares_are_read_back_exactly(value: Fraction) -> None:
    assert q.parse_share(q.show_share(value)) == value


@given(value=st.integers(0, 1_000))
def test_permille_is_read_back_exactly(value: int) -> None:
    assert q.parse_permille(q.show_permille(value)) == value


@given(count=st.integers(1, QUANTITY_LIMIT), window=st.integers(1, QUANTITY_LIMIT))
def test_rates_are_read_back_exactly(count: int, window: int) -> None:
    assert q.parse_rate(q.show_rate(Rate(count, window))) == Rate(count, window)


@given(text=st.text(max_size=100))
def test_any_text_is_a_quantity_or_an_error_with_a_code(text: str) -> None:
    readers = [partial(q.parse, quantity) for quantity in ALL]
    for read in [*readers, q.parse_share, q.parse_permille, q.parse_rate]:
        assert _outcome(read, text) is not None


def _outcome(read: Callable[[str], object], text: str) -> object:
    """The value of a text, or the code of its error."""
    try:
        return read(text)
    except QuantityError as error:
        return error.code or None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not-a-number"),
        ("s", "not-a-number"),
        ("5", "unit-missing"),
        ("5 5 s", "not-a-number"),
        ("5 GiB", "unit-wrong-dimension"),
        ("5 %", "unit-wrong-dimension"),
        ("5 sec", "unit-unknown"),
        ("-5 s", "negative"),
        ("9007199254740993 ms", "quantity-too-large"),
        ("9" * 70 + " ms", "not-a-number"),
        ("٣ s", "not-a-number"),
        ("0x10 s", "not-a-number"),
        ("1:30 s", "not-a-number"),
        ("nan s", "not-a-number"),
    ],
)
def test_refused_durations(text: str, code: str) -> None:
    with pytest.raises(QuantityError) as caught:
        q.parse(q.DURATION, text)
    assert caught.value.code == code


def test_minus_zero_is_zero() -> None:
    assert q.parse(q.DURATION, "-0 s") == 0


def test_shown_texts_are_readable() -> None:
    assert q.show(q.DURATION, 90_000) == "90 s"
    assert q.show(q.DURATION, 0) == "0 s"
    assert q.show(q.MEMORY_HELD, 1_536) == "1.5 GiB"
    assert q.show(q.CORES_HELD, 1_000) == "1 core"
    assert q.show(q.CORES_HELD, 100) == "100 mCPU"
    assert q.show(q.COUNT, 1_234_567) == "1234567"
    assert q.show_share(Fraction(1, 3)) == "1/3"
    assert q.show_permille(985) == "98.5 %"
    assert q.show_rate(Rate(600, 60_000)) == "600 per minute"
    assert q.show_rate(Rate(5, 90_000)) == "5 per 90 s"
