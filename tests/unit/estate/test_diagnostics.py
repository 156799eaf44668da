"""Every diagnostic code: a file that brings it about, and the exact place it names.

In each text `‹` marks the place that the diagnostic must name; it is taken out before reading.
"""

import ast
from pathlib import Path

import pytest

import evac
from evac.estate import check
from evac.estate.format.problems import CODES, Problems
from evac.model.diagnostic import Diagnostic, Place

MARK = "‹"
HEAD = "evac: 1\nsites: {a: {}, b: {}}\n"


def services(body: str) -> str:
    return f"{HEAD}services:\n  x: {{{body}}}\n"


def _end(words: str, of: str = "s", mark: str = "") -> str:
    """An estate with one endpoint of a store, or of a site."""
    return (
        f"{HEAD}stores: {{s: {{engine: e, members: [{{at: a, mode: primary}}]}}}}\n"
        f"endpoints:\n  {mark}e: {{for: {of}, at: a, {words}}}\n"
    )


def _backups(words: str, endpoints: str = "") -> str:
    """An estate with one store at `a`, and what is said of its backups."""
    return (
        f"{HEAD}stores: {{s: {{engine: e, members: [{{at: a, mode: primary}}], {words}}}}}\n"
        f"endpoints: {{{endpoints}}}\n"
    )


_COMMAND = "for: s, at: a, driver: command, settings: {verify: [x]}"
YAML_CASES: list[tuple[str, str, str]] = [
    ("yaml-syntax", "evac: 1\nsites: {a: ]‹", ""),
    ("yaml-syntax", "evac: 1\n‹\tsites: {}\n", "found a tab"),
    ("yaml-tag", "evac: 1\nname: ‹!!python/object:os.system x\n", "write the plain value"),
    ("several-documents", "evac: 1\n‹---\nevac: 1\n", "one document"),
    ("key-twice", f"{HEAD}name: x\n‹name: y\n", "keep one"),
    ("key-not-text", "evac: 1\n? ‹{a: b}\n: c\n", ""),
    ("merge-not-mapping", "evac: 1\nsites:\n  a: {<<: ‹[b]}\n", ""),
    ("alias-loop", "evac: 1\nsites: &s\n  a: ‹*s\n", "write out the value"),
    ("too-deep", "evac: 1\nname: " + "[" * 31 + "‹[" + "]" * 32 + "\n", ""),
    ("value-too-long", "evac: 1\nname: ‹" + "x" * 5_000 + "\n", ""),
    ("version-missing", "‹sites: {a: {}}\n", "add evac: 2"),
    ("version-unknown", "evac: ‹3\n", "update evac: "),
    ("version-unknown", "evac: ‹0\n", "this program reads versions 1 to 2"),
    ("key-unknown", f"{HEAD}‹servces: {{}}\n", "did you mean 'services'?"),
    ("key-unknown", services("‹peple: 3"), "did you mean 'people'?"),
    ("key-unknown", services("people: {value: 3, ‹sorce: x}"), "did you mean 'source'?"),
    ("key-unknown", services("‹memory: 4 GiB"), "write it under demand:"),
    ("key-unknown", _end("driver: postgres, ‹port: 5432, settings: {host: h}"), "write it under settings:"),
    ("key-unknown", _end("driver: postgres, ‹hots: h, settings: {host: h}"), "keys: for, at, hall, driver"),
    ("key-unknown", f"{HEAD}‹schema_version: 1\n", "the version of the format is stated as evac: "),
    (
        "name-unknown",
        services("needs: [‹s]") + "stores: {s: {engine: e, members: [{at: a, mode: primary}]}}\n",
        "it is a store: write {store: s}",
    ),
    ("name-unknown", services("needs: [{store: ‹y}]") + "  y: {}\n", "it is a service"),
    ("name-unknown", services("data_in: [‹x]"), "it is a service"),
    (
        "name-unknown",
        services("eligible_sites: [‹s]") + "pools: {s: {site: a}}\n",
        "it is a pool: write its site 'a'",
    ),
    (
        "value-missing",
        f"{HEAD}stores:\n  s: {{engine: e, members: [‹{{at: a}}]}}\n",
        "add mode: primary, sync, async or none",
    ),
    ("name-unknown", services("replicas: {‹x: 1}"), ""),
    ("value-missing", f"{HEAD}pools:\n  p: ‹{{cpu: 4 cores}}\n", "add site"),
    ("wrong-type", services("tier: ‹[3]"), ""),
    ("wrong-type", services("rto: ‹[10 min, 20 min]"), ""),
    ("wrong-type", services("start: ‹{low: 1 s, high: 2 s}"), ""),
    ("out-of-range", "evac: 1\nhorizon: ‹0 s\n", "24 h"),
    ("out-of-range", "evac: 1\nhorizon: ‹400 d\n", "24 h"),
    ("quantity-too-large", services("tier: 0, people: ‹9000000 G"), "tier_weights"),
    ("quantity-too-large", services("replicas: 1 M, demand: {cpu: ‹1000000000 cores}"), "the count"),
    ("too-many-replicas", services("replicas: ‹2 M"), "check the number"),
    ("too-many-replicas", services("replicas: ‹{a: 1 M, b: 1}"), "check the number"),
    ("too-deep", "evac: 1\nname: " + "[" * 999 + "‹" + "[" * 9000, "that many"),
    ("not-a-schedule", _backups("backup_policy: {schedule: ‹every day}"), "15 1 * * *"),
    ("not-a-schedule", _backups("backup_policy: {schedule: ‹61 1 * * *}"), "15 1 * * *"),
    ("not-a-schedule", _backups("backup_policy: {schedule: ‹0 0 30 2 *}"), "15 1 * * *"),
    ("backup-policy-impossible", _backups("backup_policy: ‹{copies: 2, outside: 2}"), "raise copies"),
    ("backup-policy-impossible", _backups("backup_policy: ‹{copies: 2, systems: 3}"), "raise copies"),
    (
        "backup-request-unable",
        _backups("backup_policy: {request: ‹e}", f"e: {{{_COMMAND}}}"),
        "driver backup_request",
    ),
    (
        "backup-request-elsewhere",
        _backups(
            "backup_policy: {request: ‹e}",
            "e: {for: a, at: a, driver: backup_request, settings: {argv: [x], answer: y}}",
        ),
        "for: s",
    ),
    ("name-unknown", _backups("backup_policy: {request: ‹gone}"), "under endpoints:"),
    (
        "backup-endpoint-shared",
        _backups("backups: [{at: a, endpoint: e}, {at: b, endpoint: ‹e}]", f"e: {{{_COMMAND}}}"),
        "its own",
    ),
    (
        "backup-copy-circle",
        _backups(
            "backups: [{at: b, endpoint: e, copied_from: ‹f}, {at: b, endpoint: f, copied_from: e}]",
            f"e: {{{_COMMAND}}}, f: {{{_COMMAND}}}",
        ),
        "taken from the data",
    ),
    ("backup-copied-from-nothing", _backups("backups: [{at: b, copied_from: ‹e}]", f"e: {{{_COMMAND}}}"), ""),
    ("name-unknown", _backups("backups: [{at: b, endpoint: ‹gone}]"), "under endpoints:"),
    ("id-taken", _backups("backups: []") + "data_sets: {‹s: {at: a}}\n", "rename one"),
    ("interval-ends", services("people: ‹[3]"), "write [LOW, HIGH]"),
    ("interval-ends", services("people: ‹[]"), "write [LOW, HIGH]"),
    ("interval-ends", services("start: ‹[60 s, 90 s, 150 s]"), "write [LOW, HIGH]"),
    ("interval-reversed", services("start: ‹[150 s, 90 s]"), "the smaller one first"),
    ("interval-reversed", services("start: {value: ‹[2 min, 90 s], source: x}"), "the smaller one first"),
    ("interval-reversed", f"{HEAD}limits: {{starts: ‹[9 per minute, 8 per minute]}}\n", "smaller"),
    ("interval-windows", f"{HEAD}limits: {{starts: ‹[1 per 10 s, 9 per minute]}}\n", "both per minute"),
    ("unit-wrong-dimension", services("start: [60 s, ‹4 GiB]"), "90 s"),
    ("unit-missing", services("start: [‹60, 150 s]"), "90 s"),
    ("negative", services("start: [‹-60 s, 150 s]"), ""),
    ("not-a-number", services("start: [60 s, ‹unknown]"), "90 s"),
    ("not-a-number", services("start: [60 s, ‹.inf]"), "90 s"),
    ("wrong-type", services("start: [60 s, ‹[90 s, 150 s]]"), ""),
    ("wrong-type", services("needs: ‹y"), "write [y]"),
    ("wrong-type", services("replicas: ‹[a, b]"), "write {a: 1, b: 1}, with the number of replicas of each"),
    ("wrong-type", services("traffic: ‹dns"), "keys: kind, ttl, "),
    ("wrong-type", services("demand: ‹[4]"), "keys: cpu, memory, disk, accelerators"),
    ("wrong-type", services("objectives: ‹4"), "keys: software, server, "),
    ("wrong-type", _backups("backups: ‹b"), "begin each entry with - ; its keys: at, size, "),
    ("not-a-number", services('people: ‹"1,000"'), "write 1000: no separators between digits"),
    ("not-a-number", services("people: ‹1_000 K"), "write 1000 K: no separators"),
    ("key-unknown", services("people: 1,‹000"), "write numbers without commas between digits"),
    ("not-a-number", services("rto: ‹1 h 30 min"), "write 90 min: one number with one unit"),
    ("not-a-number", services("rto: ‹2 days 1h 5 s"), "write 176405 s: one number with one unit"),
    ("not-a-number", services("rto: ‹1 h 30 GiB"), "use a value like 90 s"),
    ("not-whole", services("people: ‹1.5"), "use a value like 400"),
    ("not-whole", services("replicas: {a: ‹1.5}"), "use a value like 400"),
    ("name-unknown", services("replicas: {‹k8s-east: 1}"), "use one of these: a, b"),
    ("rpo-without-store", f"{HEAD}services:\n  ‹x: {{rpo: 5 min}}\n", "add the store to its needs: "),
    (
        "rpo-without-store",
        f"{HEAD}services:\n"
        "  ‹x: {objectives: {site: {rpo: 5 min}}, needs: [{store: s, hard: false}]}\n"
        "stores: {s: {engine: e, members: [{at: a, mode: primary}]}}\n",
        "or remove the rpo",
    ),
    ("wrong-type", "evac: 1\nsites: ‹[a, b]\n", "ID: {...}"),
    ("not-a-number", services("people: ‹.nan"), "400"),
    ("not-a-number", services("people: ‹.inf"), "400"),
    ("not-a-number", services("rto: ‹1e3 s"), "90 s"),
    ("not-a-number", services("people: ‹1_000"), "write 1000: "),
    ("unit-missing", services("rto: ‹30"), "90 s"),
    ("unit-unknown", services("rto: ‹30 minutes"), "did you mean 'min'?"),
    ("unit-unknown", services("rto: ‹30 S"), "did you mean 's'?"),
    ("unit-wrong-dimension", services("rto: ‹30 GiB"), "90 s"),
    ("negative", services("rto: ‹-5 s"), ""),
    ("quantity-too-large", services("rto: ‹99999999999999999 h"), "check the unit"),
    ("quantity-too-large", services("people: ‹9007199254740993"), "check the unit"),
    ("share-above-one", services("share: ‹120 %"), "at most 100 %"),
    ("share-zero", services("share: ‹0/5"), ""),
    ("share-by-zero", services("share: ‹1/0"), "3/5"),
    ("unit-unknown", services("share: ‹3 parts"), "3/5"),
    ("not-a-rate", f"{HEAD}limits: {{starts: ‹600 a minute}}\n", "600 per minute"),
    ("not-a-date", services("shed_rehearsed: ‹2026-02-30"), "2026-11-25"),
    ("not-a-choice", services("traffic: {kind: ‹bgp}"), "dns"),
    ("not-a-flag", services("paid: ‹off"), "true, false or unknown"),
    ("text-too-long", services("owner: ‹" + "x" * 600), "at most 500"),
    ("out-of-range", services("tier: ‹101"), ""),
    ("out-of-range", f"{HEAD}tier_weights: ‹[]\n", ""),
    ("id-invalid", f"{HEAD}services:\n  ‹'a b': {{}}\n", ""),
    ("id-invalid", f"{HEAD}services:\n  ‹'': {{}}\n", ""),
    ("id-invalid", services("needs: [‹'?']"), ""),
    ("id-taken", "evac: 1\nsites: {pangyo: {}, ‹p\u0430ngyo: {}}\n", "rename one"),
    ("id-taken", f"{HEAD}pools:\n  ‹a: {{site: a}}\n", "rename"),
    ("domain-path-invalid", f"{HEAD}halls:\n  ‹hall-1: {{}}\n", "SITE/hall-1"),
    ("domain-path-invalid", f"{HEAD}halls:\n  ‹c/hall-1: {{}}\n", ""),
    ("hall-unknown", f"{HEAD}racks:\n  ‹a/h/r: {{}}\n", "define it"),
    (
        "hall-unknown",
        f"{HEAD}halls: {{a/hall: {{}}}}\nracks:\n  a/r: {{hall: ‹a/hal}}\n",
        "did you mean 'a/hall'?",
    ),
    (
        "hall-elsewhere",
        f"{HEAD}halls: {{b/h: {{}}}}\nendpoints:\n"
        "  e: {for: a, at: a, hall: ‹b/h, driver: http, settings: {url: 'http://x'}}\n",
        "use a hall of a",
    ),
    ("name-unknown", services("needs: [‹y]"), "define it under services:"),
    ("name-unknown", services("needs: [{store: ‹y}]"), ""),
    ("name-unknown", services("replicas: {‹pangyo: 3}"), ""),
    ("name-unknown", services("eligible_classes: [‹web]"), "classes"),
    ("name-unknown", f"{HEAD}tools: {{deploy: ‹deployer}}\n", ""),
    ("name-unknown", f"{HEAD}stores:\n  s: {{engine: e, members: [{{at: ‹c, mode: primary}}]}}\n", ""),
    ("name-unknown", f"{HEAD}groups: {{g: {{members: [a, ‹z]}}}}\n", ""),
    ("name-unknown", f"{HEAD}recovery_groups: {{g: {{stores: [‹s]}}}}\n", ""),
    ("name-unknown", f"{HEAD}rehearsals: [{{domain: ‹c, done: 2026-01-01}}]\n", ""),
    ("not-a-choice", f"{HEAD}tools: {{‹deplyo: x}}\nservices: {{x: {{}}}}\n", "deploy"),
    ("target-ambiguous", services("needs: [‹{hard: true}]"), "{store: FAMILY}"),
    ("target-ambiguous", services("needs: [‹{service: x, store: y}]"), "{service: NAME}"),
    (
        "group-cycle",
        f"{HEAD}groups:\n  g: {{members: [h, a]}}\n  h: {{members: ‹[g, b]}}\n",
        "remove one of them",
    ),
    ("group-cycle", f"{HEAD}groups:\n  g: {{members: ‹[g]}}\n", ""),
    (
        "two-primaries",
        f"{HEAD}stores:\n  s: {{members: [{{at: a, mode: primary}}, ‹{{at: b, mode: primary}}]}}\n",
        "",
    ),
    (
        "quorum-without-votes",
        f"{HEAD}stores:\n  s: {{quorum: true, members: ‹[{{at: a, mode: primary, votes: 0}}]}}\n",
        "votes: 1",
    ),
    ("store-without-data", f"{HEAD}stores:\n  s: {{members: ‹[{{at: a, mode: none}}]}}\n", "primary"),
    (
        "data-at-witness",
        "evac: 1\nsites: {a: {}, w: {role: witness}}\n"
        "stores:\n  s: {members: [{at: a, mode: primary}, ‹{at: w, mode: sync}]}\n",
        "mode: none",
    ),
    (
        "secret-in-clear",
        f"{HEAD}endpoints:\n  e: {{for: a, at: a, driver: http,\n"
        "      settings: {url: 'http://x', secret: ‹hunter2}}\n",
        "env:NAME",
    ),
    (
        "agent-key-shared",
        f"{HEAD}services: {{x: {{}}}}\nendpoints:\n"
        "  e: {for: x, at: a, driver: process,\n"
        "      settings: {agent: 'http://localhost:1', secret: 'env:K', unit: x}}\n"
        "  f: {for: x, at: b, driver: process,\n"
        "      settings: {agent: 'http://localhost:2', unit: x, secret: ‹'env:K'}}\n",
        "its own key",
    ),
    (
        "endpoint-never-asked",
        _end("driver: ‹process"),
        "drivers for a store: backup_command, backup_reader, backup_request, borg, command, etcd_snapshot,"
        " kafka, mariabackup, mariadb, patroni, pg_basebackup, pgbackrest, postgres, rabbitmq, redis,"
        " redis_rdb, restic, s3",
    ),
    ("endpoint-never-asked", _end("driver: ‹http, settings: {url: 'http://x'}"), "postgres"),
    ("endpoint-never-asked", _end("driver: ‹manual"), "people do the steps"),
    ("endpoint-never-asked", _end("driver: ‹haproxy", of="a"), "add fence: network"),
    (
        "endpoint-never-asked",
        _end("driver: ‹haproxy, settings: {fence: power}", of="a"),
        "command, http, ipmi",
    ),
    ("setting-missing", _end("driver: postgres, settings: {port: 1}", mark="‹"), "write host under settings"),
    ("setting-missing", _end("driver: postgres, settings: {host: h, data: /d}", mark="‹"), "under settings"),
    ("setting-missing", _end("driver: http", of="a", mark="‹"), "write url"),
    ("setting-unknown", _end("driver: postgres, settings: {host: h, hots: ‹h}"), "did you mean 'host'?"),
    (
        "setting-unknown",
        _end("driver: redis, settings: {host: h, tls: ‹yes}"),
        "settings of redis: host, name",
    ),
    ("setting-unknown", _end("driver: redis, settings: {host: h, fence: ‹network}"), "settings of redis"),
    ("setting-wrong", _end("driver: redis, settings: {host: h, port: ‹many}"), "its port"),
    ("setting-wrong", _end("driver: redis, settings: {host: h, port: ‹65536}"), "its port"),
    ("setting-wrong", _end("driver: postgres, settings: {host: h, start: ‹later}"), "after a rewind"),
    ("not-a-choice", _end("driver: ‹postgers"), "did you mean 'postgres'?"),
    ("rebuild-circle", f"{HEAD}stores: {{s: {{rebuilt_from: ‹s}}}}\n", "holds the original"),
    ("rebuild-circle", f"{HEAD}stores: {{s: {{rebuild: ‹3 s}}}}\n", "add rebuilt_from"),
    (
        "rebuild-circle",
        f"{HEAD}stores: {{s: {{rebuilt_from: t}}, t: {{rebuilt_from: ‹u}}, u: {{rebuilt_from: t}}}}\n",
        "holds the original",
    ),
    ("needs-itself", services("needs: [‹x]"), "remove it"),
    ("name-unknown", services("data_in: [‹aa]"), "did you mean 'a'?"),
    ("data-outside", services("data_in: [a], replicas: ‹{b: 1}"), "add its site to data_in"),
    (
        "data-outside",
        f"{HEAD}stores:\n  s: {{data_in: [a], members: [‹{{at: b, mode: primary}}]}}\n",
        "",
    ),
    (
        "data-outside",
        f"{HEAD}data_sets:\n  s: {{data_in: [a], at: a, backups: [{{at: a}}, ‹{{at: b}}]}}\n",
        "",
    ),
    ("data-outside", f"{HEAD}data_sets:\n  s: {{data_in: [a], at: ‹b}}\n", "add its site to data_in"),
    (
        "alternatives-alike",
        f"{HEAD}services:\n  x: {{needs: [‹{{any_of: [y]}}]}}\n  y: {{tier: 1}}\n",
        "at least two different services",
    ),
    ("single-run-movable", services("single_run: true, movable: ‹true"), "remove movable"),
    ("provider-of-own", services("provider: ‹p") + "providers: {p: {}}\n", "add external: true"),
    ("name-unknown", services("external: true, provider: ‹strpe") + "providers: {stripe: {}}\n", "stripe"),
    ("external-runs-here", services("external: true, start: ‹3 s"), "set external: false"),
    (
        "external-needs-ours",
        f"{HEAD}services:\n  x: {{external: true, needs: [‹y]}}\n  y: {{tier: 1}}\n",
        "external services can only need external services",
    ),
    ("same-ends", f"{HEAD}links: [{{ends: ‹[a, a]}}]\n", ""),
    ("link-twice", f"{HEAD}links:\n  - {{ends: [a, b]}}\n  - ‹{{ends: [b, a]}}\n", ""),
    (
        "fact-twice",
        services("people: ‹{value: 3, source: y}") + "facts: {services/x/people: {source: z}}\n",
        "",
    ),
    ("fact-without-date", services("people: ‹{value: 3, good_for: 9 d}"), "observed"),
    (
        "fact-unknown",
        services("people: 3") + "facts:\n  ‹services/x/peeple: {source: z}\n",
        "'services/x/people'",
    ),
    ("facts-never-expire", services("people: ‹{value: 3, observed: 2020-01-01, good_for: 9 d}"), "as_of"),
    (
        "fact-expired",
        "as_of: 2026-01-01\n" + services("people: ‹{value: 3, observed: 2020-01-01, good_for: 9 d}"),
        "",
    ),
    ("default-taken", services("share: ‹unknown"), ""),
    ("need-twice", services("needs: [y, ‹y]") + "  y: {}\n", "keep one"),
    ("degraded-above-people", services("people: 3, degraded_people: ‹4"), "must not exceed people"),
    ("replicas-at-witness", "evac: 1\nsites: {w: {role: witness}}\nservices: {x: {replicas: {‹w: 1}}}\n", ""),
    (
        "replicas-at-witness",
        "evac: 1\nsites: {w: {role: witness}}\npools: {p: {site: w}}\nservices: {x: {replicas: {‹p: 1}}}\n",
        "",
    ),
    (
        "store-without-primary",
        f"{HEAD}stores:\n  s: {{members: ‹[{{at: a, mode: sync}}]}}\n",
        "mode: primary",
    ),
    (
        "pool-over-committed",
        f"{HEAD}pools:\n  ‹p: {{site: a, cpu: 4 cores}}\n"
        "services: {x: {replicas: {p: 3}, demand: {cpu: 2 cores}}}\n",
        "",
    ),
]

TABLE_CASES: list[tuple[str, str, str, str]] = [
    ("column-unknown", "servers.csv", "server,site,‹clas\n", "did you mean 'class'?"),
    ("column-unknown", "servers.csv", "server,‹site;class\n", "separate the cells with commas"),
    ("column-missing", "servers.csv", "‹site,class\na,web\n", "add server"),
    ("column-twice", "servers.csv", "server,site,‹site\n", "keep one"),
    ("row-length", "servers.csv", "server,site\ns1,a\n‹s2,a,b\n", "one cell for every column"),
    ("row-length", "servers.csv", 'server,site\n"s1",a\n‹s2\n', "one cell for every column"),
    ("table-unreadable", "servers.csv", 'server,site\n‹"s1"x,a\n', "quotes"),
    ("cell-missing", "servers.csv", "server,site\n‹,a\n", "every row needs a server name"),
    ("cell-missing", "servers.csv", "server,site\ns1,‹\n", "give a site, a rack or a pool"),
    ("cell-invalid", "servers.csv", "server,site,watts\ns1,a,‹x\n", "base units"),
    ("cell-invalid", "servers.csv", "server,site,watts\ns1,a,‹nan\n", "base units"),
    ("negative", "servers.csv", "server,site,watts\ns1,a,‹-1\n", ""),
    ("quantity-too-large", "servers.csv", "server,site,watts\ns1,a,‹9007199254740993\n", ""),
    ("not-a-choice", "servers.csv", "server,site,state\ns1,a,‹of\n", "serving, spare, dark, condemned"),
    ("not-a-choice", "servers.csv", "server,site,bmc\ns1,a,‹maybe\n", "yes"),
    ("bmc-contradiction", "servers.csv", "server,site,bmc,bmc_address\ns1,a,no,‹b1\n", "set bmc to yes"),
    ("bmc-address-twice", "servers.csv", "server,site,bmc_address\ns1,a,b1\ns2,a,‹B1\n", "correct one"),
    ("serial-twice", "servers.csv", "server,site,serial\ns1,a,X1\ns2,a,‹X1\n", "correct one"),
    ("row-twice", "servers.csv", "server,site\ns1,a\n‹s1,b\n", "keep one"),
    ("id-invalid", "servers.csv", "server,site\n‹a/s1,a\n", ""),
    ("id-taken", "servers.csv", "server,site\na,a\n", "rename"),
    ("name-unknown", "servers.csv", "server,site\ns1,‹c\n", ""),
    ("name-unknown", "servers.csv", "server,site,class\ns1,a,‹wed\n", "did you mean 'web'?"),
    ("site-contradiction", "servers.csv", "server,site,pool\ns1,b,‹p\n", ""),
    ("row-twice", "racks.csv", "rack\na/r1\n‹a/r1\n", "keep one"),
    ("id-twice", "racks.csv", "rack\n‹a/r0\n", "keep one"),
    ("id-invalid", "racks.csv", "rack\n‹r1\n", "SITE/HALL/RACK"),
    ("cell-missing", "racks.csv", "rack,hall\n‹,a/h\n", ""),
    ("domain-path-invalid", "racks.csv", "rack\n‹c/r1\n", ""),
    ("hall-unknown", "racks.csv", "rack,hall\na/r1,‹a/x\n", "unknown in the column hall"),
    ("name-unknown", "racks.csv", "rack,feeds\na/r1,‹a/f1+a/f9\n", "did you mean 'a/f1'?"),
    ("name-unknown", "racks.csv", "rack,feeds\na/r1,‹a/f1;a/east\n", "join the names with +: a/f1+a/east"),
    ("name-unknown", "racks.csv", "rack,feeds\na/r1,‹a/f1 a/x9\n", "define it"),
    ("name-unknown", "replicas.csv", "service,target,count\n‹bigg,a,1\n", "did you mean 'big'?"),
    ("name-unknown", "replicas.csv", "service,target,count\nx,‹nowhere,1\n", ""),
    ("row-twice", "replicas.csv", "service,target,count\nx,a,1\nx,‹a,2\n", "merge the rows"),
    ("cell-missing", "replicas.csv", "service,target,count\nx,a,‹\n", ""),
    ("replicas-stated-twice", "replicas.csv", "service,target,count\n‹placed,b,1\n", "only a number"),
    ("replicas-exceed-servers", "replicas.csv", "service,target,count\nx,‹s0,2\n", "per_server"),
    ("server-over-committed", "replicas.csv", "service,target,count\nbig,s0,1\n", "move some"),
    (
        "replicas-do-not-add-up",
        "replicas.csv",
        "service,target,count\nsaid,a,3\n",
        "correct either the number",
    ),
]
GROUND = """evac: 1
sites: {a: {}, b: {}}
feeds: {a/f1: {}, a/east: {}}
racks: {a/r0: {}}
pools: {p: {site: a}}
classes: {web: {cpu: 2 cores}}
services:
  x: {}
  placed: {replicas: {a: 1}}
  big: {demand: {cpu: 64 cores}}
  said: {replicas: 5}
"""


def place_of_mark(text: str) -> tuple[int, int]:
    line = text[: text.index(MARK)].count("\n") + 1
    return line, text.index(MARK) - text.rfind("\n", 0, text.index(MARK))


def found(diagnostics: tuple[Diagnostic, ...], code: str) -> list[Diagnostic]:
    return [d for d in diagnostics if d.code == code]


@pytest.mark.parametrize(("code", "text", "hint"), YAML_CASES, ids=lambda value: str(value)[:60])
def test_code_at_its_place(code: str, text: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "estate.yaml"
    file.write_text(text.replace(MARK, ""), encoding="utf-8")
    result = check(tmp_path)
    matching = found(result.diagnostics, code)
    assert matching, result.diagnostics
    if code != "yaml-syntax":
        assert (matching[0].place.line, matching[0].place.column) == place_of_mark(text)
    assert matching[0].place.file == "estate.yaml"
    assert hint in matching[0].hint
    assert (result.estate is None) == any(d.severity == "error" for d in result.diagnostics)


@pytest.mark.parametrize(("code", "name", "text", "hint"), TABLE_CASES, ids=lambda value: str(value)[:60])
def test_code_in_a_table(code: str, name: str, text: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(GROUND, encoding="utf-8")
    if name == "replicas.csv":
        (tmp_path / "servers.csv").write_text("server,site,class\ns0,a,web\n", encoding="utf-8")
    (tmp_path / name).write_text(text.replace(MARK, ""), encoding="utf-8")
    result = check(tmp_path)
    matching = found(result.diagnostics, code)
    assert matching, result.diagnostics
    assert hint in matching[0].hint
    if MARK in text:
        place = matching[0].place
        assert (place.file, place.line, place.column) == (name, *place_of_mark(text))


def test_ids_described_in_two_files_name_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("evac: 1\nsites: {a: {}}\nservices: {x: {}}\n")
    (tmp_path / "b.yaml").write_text("evac: 1\nname: n\nservices:\n  x: {}\n")
    (tmp_path / "c.yaml").write_text("name: m\n")
    twice = {d.code: d for d in check(tmp_path).diagnostics}
    assert str(twice["id-twice"].place) == "b.yaml:4:3"
    assert "a.yaml:3:12" in twice["id-twice"].message
    assert str(twice["key-twice"].place) == "c.yaml:1:7"


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    body = "".join(f"  s{row}: {{rto: {row}, needs: [nobody-{row}]}}\n" for row in range(50))
    (tmp_path / "estate.yaml").write_text(f"evac: 1\nservices:\n{body}")
    (tmp_path / "servers.csv").write_text("server,site\ns,nowhere\n")
    codes = [d.code for d in check(tmp_path).diagnostics]
    assert codes.count("unit-missing") == 50
    assert codes.count("name-unknown") == 51


def test_many_problems_are_counted_not_listed(tmp_path: Path) -> None:
    body = "".join(f"  s{row}: {{rto: {row}}}\n" for row in range(3_000))
    (tmp_path / "estate.yaml").write_text(f"evac: 1\nservices:\n{body}")
    diagnostics = check(tmp_path).diagnostics
    assert len(diagnostics) == 201
    assert diagnostics[-1].code == "more-problems"
    assert "2,800 unit-missing" in diagnostics[-1].message


def test_bad_rows_are_listed_twenty_at_most(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text("evac: 1\nsites: {a: {}}\n")
    rows = "".join(f"s{row},a,x\n" for row in range(500))
    (tmp_path / "servers.csv").write_text("server,site,watts\n" + rows)
    diagnostics = found(check(tmp_path).diagnostics, "cell-invalid")
    assert len(diagnostics) == 21
    assert diagnostics[-1].message == "and 480 more rows like this in servers.csv"
    assert str(diagnostics[-1].place) == "servers.csv:22:7"


def test_entries_with_problems_of_their_own_are_not_called_missing(tmp_path: Path) -> None:
    text = "evac: 1\nsites: {a: {}}\npools: {p: {cpu: 3 cores}}\nservices: {x: {replicas: {p: 3}}}\n"
    (tmp_path / "estate.yaml").write_text(text)
    assert [d.code for d in check(tmp_path).diagnostics] == ["value-missing"]


ELSEWHERE = {
    "replicas-on-dark-server",  # in truth/test_dark_servers
    "pool-is-off",  # likewise
    "not-upgraded",  # in test_versions
    "estate-not-found",
    "estate-empty",
    "file-unreadable",
    "file-special",
    "file-outside",
    "file-too-large",
    "too-many-files",
    "line-too-long",
    "not-utf-8",
    "nul-byte",
    "too-many-aliases",
    "too-many-values",
    "table-twice",
    "table-too-large",
    "id-twice",
    "more-problems",
    "not-a-key",
    "not-a-moment",
    "nobody",
    "not-a-hash",
    "not-an-address",
    "address-open",
    "channel-mixed",
    "channel-way",
    "mail-incomplete",
    "address-invalid",
    "nobody-told",
    "too-many-channels",
    "not-a-host",
    "not-a-path",
    "not-a-network",
    "certificate-unseen",
    "subject-missing",
    "program-approves",
    "load-above-budget",
    "approval-not-believed",
}
"""Codes of whole files, whose tests are in test_hostile.py, of policy files, of access files (in
test_access_file.py), of loads (in truth/test_loads.py), of approvals (in truth/test_lead.py), and of the
tests just above.
"""


def test_every_code_has_a_test() -> None:
    tested = {case[0] for case in YAML_CASES} | {case[0] for case in TABLE_CASES} | ELSEWHERE
    mine = {code for code in CODES if not code.startswith(("import-", "overlay-"))}
    assert mine == tested


def test_every_code_that_the_source_names_is_in_the_table() -> None:
    """A code that is missing there ends in a KeyError when its problem comes up for the first time."""
    named = {
        (path.name, call.lineno, first.value)
        for path in Path(evac.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and call.args
        and ast.unparse(call.func).endswith(("problems.add", "QuantityError"))
        if isinstance(first := call.args[0], ast.Constant) and len(call.args) > 1
    }
    assert len(named) > 100
    assert {one for one in named if one[2] not in CODES} == set()


def test_what_is_settled_is_not_counted_among_the_unlisted() -> None:
    problems = Problems()
    for number in range(500):
        problems.add("import-dangling", f"{number}", Place("x", number), about=f"s{number}")
    problems.settle("import-dangling", {f"s{number}" for number in range(499)})
    (more,) = problems.all()
    assert more.message == "and more that are not listed: 1 import-dangling"
    problems.settle("import-dangling", {"s499"})
    assert problems.all() == ()
    assert problems.count == 0
