"""The published OpenAPI schema of Kubernetes, from which the types of lightkube-models are generated."""

from __future__ import annotations

import re
import types
import typing
from importlib import import_module
from typing import Any, Final

import msgspec
from lightkube.models import meta_v1

_OF_ALL: Final = {
    "Status": meta_v1.Status,
    "APIGroupList": meta_v1.APIGroupList,
    "APIResourceList": meta_v1.APIResourceList,
}

_BUILT_IN: Final = re.compile(
    r"(?:admissionregistration|apiextensions|apiregistration|authentication|authorization"
    r"|certificates|coordination|discovery|events|flowcontrol|networking|node|rbac\.authorization|resource"
    r"|scheduling|storage)\.k8s\.io"
)
"""Groups of Kubernetes itself with a dot in their names: there are others below k8s.io, such as gateways."""


def check_schema(values: Any, model: Any, where: str = "") -> None:
    """Raises `AssertionError` where an object has what its published type has not, or lacks what it needs."""
    if isinstance(model, type) and issubclass(model, msgspec.Struct):
        assert isinstance(values, dict), f"{where} is a {type(values).__name__}, not a mapping"
        fields = {one.encode_name: one for one in msgspec.structs.fields(model)}
        for key, value in values.items():
            assert key in fields, f"{where}.{key} is not in the published schema"
            check_schema(value, fields[key].type, f"{where}.{key}")
        for key, one in fields.items():
            assert key in values or not one.required, f"{where} lacks {key}, which the schema requires"
        return
    parts, origin = typing.get_args(model), typing.get_origin(model)
    if origin in (typing.Union, types.UnionType):
        _check_any(values, [part for part in parts if part is not type(None)], where)
    elif origin is list:
        assert isinstance(values, list), f"{where} is a {type(values).__name__}, not a list"
        for number, value in enumerate(values):
            check_schema(value, parts[0], f"{where}[{number}]")
    elif origin is dict:
        assert isinstance(values, dict), f"{where} is a {type(values).__name__}, not a mapping"
        for key, value in values.items():
            check_schema(value, parts[1], f"{where}.{key}")
    elif model is int:
        is_int = isinstance(values, int) and not isinstance(values, bool)
        assert is_int, f"{where} is a {type(values).__name__}, not an int"
    elif isinstance(model, type) and model in (str, bool, dict, float):
        assert isinstance(values, model), f"{where} is a {type(values).__name__}, not a {model.__name__}"


def _check_any(values: Any, parts: list[Any], where: str) -> None:
    """null stands for a field that is left out; of several types one must fit."""
    if values is None:
        return
    for part in parts[:-1]:
        try:
            check_schema(values, part, where)
        except AssertionError:
            continue
        return
    check_schema(values, parts[-1], where)


def is_published(api_version: str) -> bool:
    """Whether a group is one of Kubernetes itself; of custom resources no schema is published."""
    group = api_version.rpartition("/")[0]
    return "." not in group or _BUILT_IN.fullmatch(group) is not None


def model_of(api_version: str, kind: str) -> Any:
    """The published type of a kind; None of a custom resource, for which none is published."""
    if kind in _OF_ALL:
        return _OF_ALL[kind]
    group, _, version = api_version.rpartition("/")
    if not is_published(api_version):
        return None
    name = group.partition(".")[0] or "core"
    try:
        found = getattr(import_module(f"lightkube.models.{name}_{version}"), kind, None)
    except ModuleNotFoundError:
        found = None
    assert found is not None, f"{api_version} has no kind {kind} in the published schema"
    return found


def check_object(values: Any) -> None:
    """Raises `AssertionError` if an object, a list or a status is not as a server of the API sends it."""
    assert isinstance(values, dict), "an answer is not an object"
    kind, api_version = values.get("kind"), values.get("apiVersion")
    assert isinstance(kind, str), "an object has no kind"
    is_left_out = kind == "APIResourceList" and values.get("groupVersion") == "v1"
    assert isinstance(api_version, str) or is_left_out, f"{kind} has no apiVersion"
    model = model_of(api_version or "v1", kind)
    if model is not None:
        check_schema(values, model, kind)
    elif kind.endswith("List"):
        check_schema(values.get("metadata"), meta_v1.ListMeta, f"{kind}.metadata")
        for number, item in enumerate(values["items"]):
            check_object(item)
            assert item["apiVersion"] == api_version, f"{kind}.items[{number}] is of another version"
    else:
        check_schema(values.get("metadata"), meta_v1.ObjectMeta, f"{kind}.metadata")
        assert values["metadata"].get("name"), f"{kind} has no name"
