"""Classes whose methods are compiled late behave as those of `dataclasses`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import weakref
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


def shelves(made: Made, eq: bool) -> tuple[type, type]:
    """A class that needs nothing special, and one that extends it."""

    class Shelf:
        """Where things are."""

        name: str
        servers: int = 3
        notes: tuple[str, ...] = field(default_factory=tuple, metadata={"shown": True})
        seen: int = field(default=0, compare=False, repr=False, kw_only=True)
        double: int = field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "double", 2 * self.servers)

        @property
        def many(self) -> bool:
            return self.servers > 1

    shelf = made(frozen=True, slots=True, eq=eq)(Shelf)
    return shelf, type("Drawer", (shelf,), {})


def told(action: Callable[[], object]) -> tuple[type, str]:
    """What it raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        action()
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("eq", [True, False])
def test_a_plain_class_is_that_of_dataclasses(eq: bool) -> None:
    def everything(made: Made) -> list[object]:
        shelf, drawer = shelves(made, eq)
        one, other = shelf("a", seen=1), drawer("a", notes=("x",))
        names = ("name", "type", "default", "init", "repr", "compare", "kw_only", "metadata", "_field_type")
        return [
            [[getattr(field, name) for name in names] for field in dataclasses.fields(shelf)],
            [getattr(shelf, name) for name in ("__slots__", "__match_args__", "__doc__", "__qualname__")],
            shelf.__setattr__.__qualname__,
            sorted(vars(shelf)),
            (repr(one), repr(other), one.many, dataclasses.asdict(other), str(inspect.signature(shelf))),
            (one == shelf("a"), one == drawer("a"), one == one, hash(one) == hash(shelf("a", seen=2))),
            (one.__getstate__(), dataclasses.replace(one, servers=9), copy.copy(other), copy.deepcopy(one)),
            [told(lambda: setattr(one, "name", 1)), told(lambda: delattr(one, "name"))],
            [told(lambda: setattr(other, "name", 1)), told(lambda: delattr(other, "name"))],
            [told(shelf), told(lambda: shelf("a", 1, (), 2)), told(lambda: weakref.ref(one))],
            shelf.__dataclass_params__.frozen,
            told(lambda: dataclasses.dataclass(type("Open", (shelf,), {"__annotations__": {"a": "int"}}))),
        ]

    for mine, plain in zip(everything(dataclass), everything(dataclasses.dataclass), strict=True):
        assert str(mine) == str(plain)


def test_what_is_no_field_is_refused_but_by_a_subclass_without_slots() -> None:
    """Those of `dataclasses` before Python 3.14 fail here: they still refer to the class without slots."""
    shelf, drawer = shelves(dataclass, eq=True)
    one, other = shelf("a"), drawer("a")
    for name in ("loose", "many"):
        for refused in (lambda name=name: setattr(one, name, 1), lambda name=name: delattr(one, name)):
            assert told(refused)[0] is dataclasses.FrozenInstanceError
    other.loose = 1
    assert vars(other) == {"loose": 1}
    del other.loose
    assert told(lambda: delattr(other, "loose"))[0] is AttributeError


@pytest.mark.parametrize(
    "body",
    [
        {"__annotations__": {"a": "list[int]"}, "a": []},
        {"__annotations__": {"a": "int"}, "b": field(default=1)},
        {"__annotations__": {"a": "int"}, "__setattr__": lambda self, name, value: None},
        {"__annotations__": {"a": "int"}, "__slots__": ("a",)},
        {"__annotations__": {"a": "ClassVar[int]"}, "a": field(default_factory=int)},
    ],
)
def test_what_dataclasses_refuses_is_refused(body: dict[str, Any]) -> None:
    def refused(made: Made) -> tuple[type, str]:
        return told(lambda: made(frozen=True, slots=True)(type("Wrong", (), dict(body))))

    assert refused(dataclass) == refused(dataclasses.dataclass)


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
    one = late("a")
    assert not isinstance(vars(late)["__init__"], _Late)
    assert all(isinstance(vars(late)[name], _Late) for name in ("__repr__", "__eq__", "__hash__"))
    assert repr(one)
    assert all(isinstance(vars(late)[name], _Late) for name in ("__eq__", "__hash__"))
    assert one == late("a")
    assert not any(isinstance(value, _Late) for value in vars(late).values())


def test_every_class_of_evac_is_made_by_it(project_root: Path) -> None:
    sources = [*(project_root / "src").rglob("*.py"), *(project_root / "lab" / "src").rglob("*.py")]
    own = project_root / "src" / "evac" / "model" / "records.py"
    plain = re.compile(r"^from dataclasses import .*\bdataclass\b|\bdataclasses\.dataclass\b", re.MULTILINE)
    assert [path for path in sources if path != own and plain.search(path.read_text())] == []
