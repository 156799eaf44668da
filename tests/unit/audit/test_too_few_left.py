"""A tool that runs at two sites, with a share that does not let one of them do."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.estate.loading import load
from tests.unit.audit.estates import found

TEXT = """
evac: 1
name: ferries
as_of: 2026-11-30
sites: {{bergen: {{}}, molde: {{}}}}
pools:
  b: {{site: bergen, cpu: 64 cores, memory: 256 GiB, disk: 4 TiB, accelerators: 0}}
  m: {{site: molde, cpu: 64 cores, memory: 256 GiB, disk: 4 TiB, accelerators: 0}}
tools: {{evac: evac, deploy: deploy}}
services:
  deploy: {{tier: 0, people: 9, rto: 1 h, demand: &one {{cpu: 1 core, memory: 2 GiB, disk: 1 GiB,
           accelerators: 0}}, replicas: {deploy}, {share} start: 10 s, traffic: {{kind: none}}}}
  evac: {{tier: 0, people: 9, rto: 1 h, demand: *one, replicas: {{b: 2, m: 2}}, share: 50 %, start: 10 s,
         traffic: {{kind: none}}}}
"""


@pytest.mark.parametrize(
    ("replicas", "share", "hint"),
    [
        ("{b: 2, m: 1}", "", "deploy keeps 1 of 3 replicas. If fewer than 3 are enough, set its `share`. "),
        ("{b: 2, m: 1}", "share: 60 %,", "deploy keeps 1 of 3 replicas. If fewer than 2 are enough"),
        ("{b: 2, m: 1}", "share: 1/3,", ""),
        ("{b: 2}", "", "Run deploy"),
    ],
)
def test_the_fix_names_the_share_if_replicas_are_left(
    tmp_path: Path, replicas: str, share: str, hint: str
) -> None:
    (tmp_path / "estate.yaml").write_text(TEXT.format(deploy=replicas, share=share))
    report = audit(load(tmp_path))
    lost = [
        one
        for rule in ("recovery-tool-lost", "service-lost")
        for one in found(report, rule)
        if one.subject == "deploy" and "bergen" in one.domains
    ]
    assert bool(lost) is bool(hint)
    assert all(one.fix.startswith(hint) for one in lost)
    assert all("without deploy" in one.message for one in found(report, "service-lost"))
