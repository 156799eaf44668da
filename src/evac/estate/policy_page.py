"""The reference page on policy files, made from the table that their reader works from."""

from __future__ import annotations

from typing import Final

from evac.estate.codecs.policy import FIELDS, STORE_FIELDS
from evac.estate.format.kinds import Field, Mapped, Record, Records
from evac.estate.key_tables import key_table, shown_default
from evac.model.run_policy import PROFILES

_OPENING: Final = """\
# Policy files

What evac may do by itself, whom it asks, how it makes sure that an old primary cannot write, and how fast it
believes that a site is gone. One YAML file, `policy.yaml` in the folder of the estate; `--policy FILE` names
another. An empty file is the careful policy: evac advises, and people decide. This page is made from the
program's own table.

```yaml
mode: hold
approvals: 2
approvers:
  kim: 3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=
  lee: vu/erb7v3q2+796tvu/erb7v3q2+796tvu/erb7v3q0=
watch: {profile: cautious}
stores:
  messages: {fence_proofs: [sync, network, attest], on_sync_loss: next}
pace: {shares: [10 %, 50 %, 100 %], wait: 30 s}
windows:
  - {from: "2026-12-01T01:00:00Z", to: "2026-12-01T05:00:00Z", sites: [anyang], reason: network works}
```

`hold` and `act` are refused unless the store of runs survives the loss of every single site: etcd with
members in three sites, never SQLite.

## Proofs of a fence

A store is promoted only after its old primary provably cannot acknowledge another write. Policy says which
proofs are good enough for which store; the journal names the one that was used.

| proof | what is proved |
|---|---|
| `lease` | the lease of the members ended, and they fence themselves; needs `self_fence: true` |
| `sync` | the synchronous replica takes over: without it the old primary acknowledges nothing (reads go on) |
| `network` | devices outside the site closed the path to it |
| `power` | it has no power, and that was seen |
| `attest` | a person vouches for it, by name |
| `none` | nothing: policy does not mind two primaries of this store, such as a cache that is learned again |

"""


def policy_page() -> str:
    """Keys of policy files, and the watch profiles."""
    lines = [_OPENING + "## Keys", "", *key_table(FIELDS, _absent), ""]
    for spec in FIELDS:
        record = spec.kind.item if isinstance(spec.kind, Records) else spec.kind
        if isinstance(record, Record):
            lines += [f"### `{spec.key}`", "", *key_table(record.fields, _absent), ""]
    lines += [
        "### `stores`",
        "",
        "A mapping of ids of stores; of each:",
        "",
        *key_table(STORE_FIELDS, _absent),
        "",
    ]
    lines += ["## Watch profiles", "", "| profile | period | misses | suspect | confirm | clear |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in ("cautious", "fast", "lab"):
        p = PROFILES[name]
        times = (f"{ms / 1000:g} s" for ms in (p.suspect_ms, p.confirm_ms, p.clear_ms))
        lines.append(f"| `{name}` | {p.period_ms / 1000:g} s | {p.misses} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def _absent(spec: Field) -> str:
    if spec.required:
        return "an error"
    if spec.default is None:
        return "as the profile says"
    if isinstance(spec.kind, Record):
        return "as below"
    if isinstance(spec.kind, Mapped) or spec.default in ((), ""):
        return "none"
    return shown_default(spec)
