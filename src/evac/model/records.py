"""`dataclass` for the hundreds of classes of evac. It makes the same classes, but compiles `__init__`,
`__repr__`, `__eq__` and `__hash__` of a frozen one when one of them is first used: a command uses few of the
classes that it imports, and compiling these methods for all of them took a quarter of its start.

Of what is left, `dataclasses` takes two thirds for what no class here needs: for every class it compiles what
refuses assignments, and it looks up each annotation. Plain frozen classes with slots are made without that;
anything else is left to `dataclasses`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from types import FunctionType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:
        """As `dataclasses.dataclass`, with the same options."""
        if cls is None:
            return lambda found: dataclass(found, **options)
        own = vars(cls)
        plain = options.keys() - {"frozen", "slots", "eq"} or {"__eq__", "__hash__"} & own.keys()
        if plain or not options.get("frozen"):
            return dataclasses.dataclass(cls, **options)
        names = {"__init__", "__repr__"} | ({"__eq__", "__hash__"} if options.get("eq", True) else set())
        late = {name: _Late(name, cls) for name in names - own.keys()}
        doc = cls.__doc__ or cls.__name__  # where there is none, `dataclasses` puts the signature
        fields = _plain_fields(cls) if options.get("slots") else None
        if fields is not None:
            return _with_slots(cls, fields, {**late, "__doc__": doc})
        for name, method in late.items():
            setattr(cls, name, method)
        cls.__doc__ = doc
        return dataclasses.dataclass(cls, **{**options, "init": False, "repr": False, "eq": False})


class _Late:
    """A method of a frozen class: compiled when it is first asked for, and then replaced by the result."""

    def __init__(self, name: str, owner: type) -> None:
        self.name = name
        self.owner = owner

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner  # a class with slots is made a second time

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if isinstance(vars(self.owner)[self.name], _Late):
            _compile(self.owner, self.name)
        return vars(self.owner)[self.name].__get__(instance, owner)


def _compile(cls: type, asked: str) -> None:
    """Replace a late method by what `dataclasses` writes for a class of the same fields; `__eq__` and
    `__hash__` together.
    """
    fields: Any = [(field.name, field.type, _again(field)) for field in dataclasses.fields(cls)]
    namespace: dict[str, Any] = {"__doc__": cls.__doc__}
    if hasattr(cls, "__post_init__"):
        namespace["__post_init__"] = cls.__post_init__
    parts = {"init": {"__init__"}, "repr": {"__repr__"}, "eq": {"__eq__", "__hash__"}}
    wanted: Any = {part: asked in names for part, names in parts.items()}
    same = dataclasses.make_dataclass(
        cls.__name__, fields, namespace=namespace, frozen=True, slots=True, **wanted
    )
    for name in next(names for names in parts.values() if asked in names):
        if isinstance(vars(cls).get(name), _Late):
            made = vars(same)[name]
            made.__qualname__ = f"{cls.__qualname__}.{name}"
            setattr(cls, name, made)


def _again(field: dataclasses.Field[Any]) -> Any:
    """A field as its class declared it."""
    kept = ("default", "default_factory", "init", "repr", "hash", "compare", "metadata", "kw_only")
    return dataclasses.field(**{name: getattr(field, name) for name in kept})


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True)
class _Template:
    """What `dataclasses` puts into each class with these options."""

    one: int


_ONE: Final[Any] = dataclasses.fields(_Template)[0]
_ALIKE: Final = {
    name: value
    for name, value in vars(_Template).items()
    if name in ("__dataclass_params__", "__getstate__", "__setstate__", "__replace__")
}
_TAKEN: Final = _ALIKE.keys() | {"__setattr__", "__delattr__", "__slots__", "__match_args__"}
_NO_FIELDS: Final = ("ClassVar", "InitVar", "KW_ONLY")


def _plain_fields(cls: type) -> dict[str, dataclasses.Field[Any]] | None:
    """The fields of a class that needs nothing else of `dataclasses`; None if it does, or may."""
    own, annotations = vars(cls), inspect.get_annotations(cls)
    if cls.__mro__ != (cls, object) or type(cls) is not type or not _TAKEN.isdisjoint(own):
        return None
    found: dict[str, dataclasses.Field[Any]] = {}
    for name, kind in annotations.items():
        if type(kind) is not str or any(word in kind for word in _NO_FIELDS):
            return None
        default = own.get(name, dataclasses.MISSING)
        if type(default) is MemberDescriptorType:
            return None
        field: Any = default if type(default) is dataclasses.Field else dataclasses.field(default=default)
        if type(field.default).__hash__ is None:
            return None
        field.name, field.type, field._field_type = name, kind, _ONE._field_type
        if field.kw_only is dataclasses.MISSING:
            field.kw_only = False
        found[name] = field
    for name, value in own.items():
        if type(value) is dataclasses.Field and name not in found:
            return None
        if type(value) is FunctionType and "__class__" in value.__code__.co_freevars:
            return None  # `super()` without arguments
    return found


def _with_slots(cls: type, fields: Mapping[str, dataclasses.Field[Any]], more: Mapping[str, Any]) -> type:
    """The class with slots for its fields. more: what it is to have besides."""
    left_out = fields.keys() | {"__dict__", "__weakref__"}
    namespace = {name: value for name, value in vars(cls).items() if name not in left_out}
    positional = tuple(name for name, field in fields.items() if field.init and not field.kw_only)
    made: type[Any] = type(
        cls.__name__,
        (),
        {
            **namespace,
            **_ALIKE,
            **more,
            "__slots__": tuple(fields),
            "__match_args__": positional,
            "__dataclass_fields__": dict(fields),
        },
    )
    made.__qualname__ = cls.__qualname__

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self) is made or name in fields:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(made, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is made or name in fields:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(made, self).__delattr__(name)

    for method in (__setattr__, __delattr__):
        method.__qualname__ = f"{cls.__qualname__}.{method.__name__}"
        setattr(made, method.__name__, method)
    return made
