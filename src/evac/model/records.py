"""`dataclass` for the hundreds of classes of evac. It makes the same classes, but compiles `__init__`,
`__repr__`, `__eq__` and `__hash__` of a frozen one when one of them is first used: a command uses few of the
classes that it imports, and compiling these methods for all of them took a quarter of its start.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

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
        for name in names - own.keys():
            setattr(cls, name, _Late(name, cls))
        cls.__doc__ = cls.__doc__ or cls.__name__  # where there is none, `dataclasses` puts the signature
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
            _compile(self.owner)
        return vars(self.owner)[self.name].__get__(instance, owner)


def _compile(cls: type) -> None:
    """Replace what is late in a class by what `dataclasses` writes for a class of the same fields."""
    fields: Any = [(field.name, field.type, _again(field)) for field in dataclasses.fields(cls)]
    namespace: dict[str, Any] = {"__doc__": cls.__doc__}
    if hasattr(cls, "__post_init__"):
        namespace["__post_init__"] = cls.__post_init__
    same = dataclasses.make_dataclass(cls.__name__, fields, namespace=namespace, frozen=True, slots=True)
    for name, late in [*vars(cls).items()]:
        if isinstance(late, _Late):
            made = vars(same)[name]
            made.__qualname__ = f"{cls.__qualname__}.{name}"
            setattr(cls, name, made)


def _again(field: dataclasses.Field[Any]) -> Any:
    """A field as its class declared it."""
    kept = ("default", "default_factory", "init", "repr", "hash", "compare", "metadata", "kw_only")
    return dataclasses.field(**{name: getattr(field, name) for name in kept})
