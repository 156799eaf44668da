"""Classes whose methods are compiled late behave as those of `dataclasses`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evac.model.records import _Late, dataclass

Made = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Rack:
    """At module level, as pickle asks for it."""

    name: str
    servers: int = 0
    feeds: tuple[str, ...] = field(default_factory=tuple, repr=False)
    seen: int = field(default=0, compare=False, kw_only=True)


def classes(made: Made, **options: bool) -> tuple[type, type]:
    """The same class and a subclass of it, made by one of the two functions."""

    class Place:
        kind: ClassVar[str] = "place"
        name: str
        servers: int = 3
        notes: list[str] = field(default_factory=list)
        seen: int = field(default=0, compare=False, repr=False, kw_only=True)
        double: int = field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "double", 2 * self.servers)

    place = made(**options)(Place)
    inner = made(**options)(type("Hall", (place,), {"__annotations__": {"floor": "int"}, "floor": 1}))
    return place, inner


@pytest.mark.parametrize("options", [{"slots": True}, {}, {"slots": True, "eq": False}])
def test_a_class_is_that_of_dataclasses(options: dict[str, bool]) -> None:
    ours, theirs = (
        classes(dataclass, frozen=True, **options),
        classes(dataclasses.dataclass, frozen=True, **options),
    )
    for mine, plain in zip(ours, theirs, strict=True):
        assert str(inspect.signature(mine)) == str(inspect.signature(plain))
        assert mine.__match_args__ == plain.__match_args__  # type: ignore[attr-defined]
        one, other = mine("a", 4, ["x"], seen=1), plain("a", 4, ["x"], seen=1)
        assert repr(one) == repr(other)
        assert dataclasses.asdict(one) == dataclasses.asdict(other)
        assert (one == mine("a", 4, ["x"])) is (other == plain("a", 4, ["x"]))
        assert (one == mine("b", 4, ["x"])) is (other == plain("b", 4, ["x"]))
        assert dataclasses.replace(one, servers=5).double == 10
        for wrong in ((), ("a", 1, [], 2, 3)):
            with pytest.raises(TypeError) as ours_said:
                mine(*wrong)
            with pytest.raises(TypeError) as theirs_said:
                plain(*wrong)
            assert str(ours_said.value) == str(theirs_said.value)
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.name = "c"


def test_hash_equality_copies_and_pickles_agree() -> None:
    one = Rack("a", 1, ("feed-1",), seen=7)
    assert hash(one) == hash(Rack("a", 1, ("feed-1",), seen=9))
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), copy.copy(one)):
        assert (again, again.seen) == (one, 7)
    assert one != Rack("b", 1, ("feed-1",))
    assert repr(one) == "Rack(name='a', servers=1, seen=7)"


def test_methods_of_the_class_itself_stay() -> None:
    @dataclass(frozen=True, slots=True)
    class Named:  # noqa: PLW1641
        name: str

        def __repr__(self) -> str:
            return self.name

        def __eq__(self, other: object) -> bool:
            return True

    assert (repr(Named("a")), Named("a") == Named("b"), hash(Named("a"))) == ("a", True, hash(("a",)))


def test_what_is_never_used_is_never_compiled() -> None:
    late, _ = classes(dataclass, frozen=True, slots=True)
    assert all(isinstance(vars(late)[name], _Late) for name in ("__init__", "__repr__", "__eq__", "__hash__"))
    late("a")
    assert not any(isinstance(value, _Late) for value in vars(late).values())


def test_every_class_of_evac_is_made_by_it(project_root: Path) -> None:
    sources = [*(project_root / "src").rglob("*.py"), *(project_root / "lab" / "src").rglob("*.py")]
    own = project_root / "src" / "evac" / "model" / "records.py"
    plain = re.compile(r"^from dataclasses import .*\bdataclass\b|\bdataclasses\.dataclass\b", re.MULTILINE)
    assert [path for path in sources if path != own and plain.search(path.read_text())] == []
