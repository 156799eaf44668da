"""JSON larger than what is read as a whole: pruned as it is read, with the same result."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from evac.estate.format import document
from evac.estate.importers import Options, SourceError, import_estate, json_stream, netbox
from evac.estate.importers.json_stream import JsonStream, NotJson


def body(devices: int) -> dict[str, Any]:
    """A response of NetBox, with fields that evac does not read."""
    made = []
    for n in range(devices):
        room = {"id": n % 4, "slug": f"room-{n % 2}", "name": f"Room {n}"}
        made.append(
            {
                "id": n,
                "url": f"https://nb.example/api/dcim/devices/{n}/",
                "name": f"srv-{n}",
                "device_type": {"slug": "r650", "manufacturer": {"slug": "dell", "words": ["x"] * 20}},
                "role": {"slug": f"web{n % 3}"},
                "site": {"slug": "fra"},
                "location": room,
                "rack": {"name": f"r{n % 5}"},
                "position": 3.0,
                "status": {"value": "active", "label": "Active"},
                "serial": f"S{n}",
                "oob_ip": {"address": f"10.0.0.{n}/24"},
                "custom_fields": {"cpu_cores": 8, "memory_gib": 64, "root_password": "hunter2"},
                "local_context_data": {str(key): key for key in range(30)},
            }
        )
    around = [
        {"id": n, "slug": f"room-{n % 2}", "site": {"slug": "fra"}, "parent": {"id": 9 + n // 2}}
        for n in range(4)
    ]
    around += [{"id": 9 + n, "slug": f"house-{n}", "site": {"slug": "fra"}, "parent": None} for n in (0, 1)]
    return {"devices": {"count": devices, "results": made}, "locations": around}


def written(folder: Path, text: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "netbox.json").write_text(text)
    import_estate("netbox", folder / "netbox.json", folder / "estate", options=Options())
    return {path.name: path.read_text() for path in sorted((folder / "estate").iterdir())}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("shape", ["mapping", "response", "list"])
def test_a_pruned_source_gives_the_same_estate(
    tmp_path: Path, shape: str, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Any = body(12)
    if shape != "mapping":
        whole = whole["devices"] if shape == "response" else whole["devices"]["results"]
    text = json.dumps(whole, indent=indent)
    first = written(tmp_path / "whole", text)
    monkeypatch.setattr(netbox, "PRUNED_FROM_BYTES", 0)
    assert written(tmp_path / "pruned", text) == first
    assert "srv-11" in first["servers.csv"]
    assert "hunter2" not in "".join(first.values())


def test_values_that_evac_does_not_read_do_not_make_a_source_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netbox, "PRUNED_FROM_BYTES", 0)
    monkeypatch.setattr(document, "NODES_MAX", 1_000)
    assert "srv-99" in written(tmp_path / "a", json.dumps(body(100)))["servers.csv"]
    monkeypatch.setattr(json_stream, "VALUES_MAX", 1_000)
    with pytest.raises(SourceError) as caught:
        written(tmp_path / "b", json.dumps(body(100)))
    assert [one.code for one in caught.value.diagnostics] == ["too-many-values"]


@pytest.mark.parametrize(
    ("text", "code", "column"),
    [
        (json.dumps(body(3))[:-300], "import-truncated", None),
        ('{"devices": [{"id": 1} {"id": 2}]}', "import-shape", 24),
        ('{"devices": [{"id": 1}], "x" 2}', "import-shape", 30),
        ('{"devices": [' + "[" * 100_000, "import-truncated", 100_014),
        ('{"devices": [' + "[" * 100_000 + "}", "import-shape", 100_015),
        ('{"devices": ["\x01"]}', "import-shape", None),
    ],
)
def test_broken_json_says_where(
    tmp_path: Path, text: str, code: str, column: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netbox, "PRUNED_FROM_BYTES", 0)
    with pytest.raises(SourceError) as caught:
        written(tmp_path / "a", text)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert found.place.line == 1
    assert column in (None, found.place.column)


def test_a_stream_reads_what_json_reads_whatever_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": [1, 2.5, None, True, "x\n\u00e9" * 50], "b": [], "c": [{"d": []}]}
    text = json.dumps(value, indent=2)
    for window in (1, 2, 7, 64, 10_000):
        monkeypatch.setattr(json_stream, "_WINDOW", window)
        stream = JsonStream(io.StringIO(text), "x.json")
        seen = {key: [item for _, item in stream.items()] for key in stream.members()}
        assert seen == value
        with pytest.raises(NotJson):
            list(JsonStream(io.StringIO("[1, 2"), "x.json").items())


OPEN = "[" * 29
CHANGES = {
    "nothing": lambda text: text,
    "two pages": lambda text: text + "\n" + text,
    "signs after the end": lambda text: text + "}}}} oops",
    "a word after the end": lambda text: text + "\noops",
    "a key twice at the root": lambda text: text[:-1] + ', "devices": []}',
    "a key twice in a response": lambda text: text.replace('"count":', '"results": [], "count":', 1),
    "a key twice in an object": lambda text: text.replace('"serial":', '"name": "other", "serial":', 1),
    "a key twice deep inside": lambda text: text.replace('"0": 0', '"1": 0, "0": 0', 1),
    "the most levels": lambda text: text.replace('"0": 0', f'"0": {OPEN[2:]}{"]" * 27}', 1),
    "a level too many": lambda text: text.replace('"0": 0', f'"0": {OPEN[1:]}{"]" * 28}', 1),
    "far too many levels": lambda text: text.replace('"0": 0', f'"0": {OPEN * 40}{"]" * 1_160}', 1),
    "a number of 5,000 digits": lambda text: text.replace("3.0", "7" * 5_000, 1),
    "the end is missing": lambda text: text[:-300],
}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_text_that_is_padded_over_the_limit_gives_the_same_code(
    tmp_path: Path, change: str, inside: bool
) -> None:
    text = CHANGES[change](json.dumps(body(3)))
    blanks = " " * netbox.PRUNED_FROM_BYTES
    padded = text[0] + blanks + text[1:] if inside else text + blanks
    found = []
    for name, whole in (("small", text), ("large", padded)):
        try:
            found.append(written(tmp_path / name, whole)["servers.csv"])
        except SourceError as error:
            found.append(" ".join(one.code for one in error.diagnostics))
    assert found[0] == found[1]
    assert ("srv-2" in found[0]) == (change == "nothing" or "level" in change or "digits" in change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"kind": "Pod", "metadata": {"name": "a"}, "spec": ' + "[" * 900 + "]" * 900 + "}",
            "256 levels deep",
        ),
        ('{"kind": "List", "items": [' * 900 + "]}" * 900, "256 levels deep"),
        ('{"kind": "Pod", "metadata": {"name": "a"}, "spec": {"n": ' + "7" * 5_000 + "}}", None),
    ],
)
def test_depth_and_long_numbers_of_kubernetes_are_bounded(
    tmp_path: Path, text: str, words: str | None
) -> None:
    (tmp_path / "dump.json").write_text(text)
    if words is None:
        import_estate("kubernetes", tmp_path / "dump.json", tmp_path / "estate", options=Options())
        return
    with pytest.raises(SourceError) as caught:
        import_estate("kubernetes", tmp_path / "dump.json", tmp_path / "estate", options=Options())
    assert [one.code for one in caught.value.diagnostics] == ["too-deep"]
    assert words in caught.value.diagnostics[0].message


@pytest.mark.parametrize(
    "value",
    [
        "[" * 5_000 + "]" * 5_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        '{"a": "]} \\" [{ \\\\", "b": [{"c": "é"}]}',
        "[]",
    ],
)
def test_a_value_is_passed_over_in_any_window(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for window in (1, 7, 4_000):
        monkeypatch.setattr(json_stream, "_WINDOW", window)
        stream = JsonStream(io.StringIO(f'[{value},\n "after"]'), "a.json")
        stream.expect("[")
        stream.pass_over()
        stream.expect(",")
        assert (stream.value(), stream.place.line) == ("after", 2)


@pytest.mark.parametrize("value", ["[[}", "[", '{"a', '["a\\"', "[{]"])
def test_brackets_that_do_not_close_are_not_passed_over(value: str) -> None:
    stream = JsonStream(io.StringIO(value), "a.json")
    with pytest.raises(NotJson):
        stream.pass_over()


def test_more_brackets_than_an_object_may_have_characters_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each open bracket takes memory until it is closed."""
    monkeypatch.setattr(json_stream, "OBJECT_CHARACTERS_MAX", 1_000)
    stream = JsonStream(io.StringIO("[" * 1_001 + "]" * 1_001), "a.json")
    with pytest.raises(NotJson, match="nested too deeply"):
        stream.pass_over()
