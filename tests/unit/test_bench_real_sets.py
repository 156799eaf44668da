"""The table of real sets: what is absent is named, what is refused fails it, what is left out has reasons."""

import re
from pathlib import Path

import pytest

from bench import real_sets

SHOP = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec: {template: {spec: {containers: [{name: a, image: example/shop}]}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: shop}
"""


def test_sets_that_are_absent_are_named_and_the_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "online-boutique").mkdir()
    (tmp_path / "online-boutique" / "kubernetes-manifests.yaml").write_text(SHOP)
    assert real_sets.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("skipped: not on this machine" in line for line in lines) == len(real_sets.SETS) - 1
    at = next(number for number, line in enumerate(lines) if "online-boutique" in line)
    assert lines[at].split()[3:] == ["0", "1", "0", "whole"]
    assert "1 import-ignored, such as kubernetes-manifests.yaml:" in lines[at + 1]


def test_a_set_that_is_refused_fails_the_table_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "online-boutique").mkdir()
    (tmp_path / "online-boutique" / "kubernetes-manifests.yaml").write_text("kind: [")
    assert real_sets.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "refused" in out
    assert re.search(r"1 [a-z-]+, such as kubernetes-manifests.yaml:\d+:", out)
