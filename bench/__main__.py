"""`python -m bench [PART]`: every figure that is claimed.

PART is stages, optimum, placement, contradictions, sequences, all, run, lab, boot, serve, fence, credit,
import, backup or real-sets.

`run`, `lab`, `boot`, `serve` and `fence` are the engine's, the fires', the cold start's, the war room's and
the self-fence's (see `run_figures`, `lab_figures`, `bench_boot`, `bench_serve`, `bench_fence`); `all` is the
planner's.
FULL=1 runs all sizes and all instances; the default is a sample of a few minutes.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

from bench import stages

PARTS = {
    "run": "run_figures",
    "lab": "lab_figures",
    "boot": "bench_boot",
    "serve": "bench_serve",
    "fence": "bench_fence",
    "credit": "bench_credit",
    "backup": "bench_backup",
    "import": "bench_import",
    "real-sets": "real_sets",
}
"""Part -> the module whose `main` takes its arguments."""


def main(arguments: list[str]) -> int:
    """Run what is asked for, stages by default."""
    what = arguments[0] if arguments else "all"
    if what == "measure":
        print(json.dumps(stages.measure(int(arguments[1]), int(arguments[2]))))
        return 0
    if what in ("run", "lab", "boot", "serve", "fence", "backup"):
        # Whoever ends this with SIGTERM, as `timeout` does, leaves no server behind either.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if what in PARTS:
        return int(importlib.import_module(f"bench.{PARTS[what]}").main(arguments[1:]))
    full = bool(os.environ.get("FULL"))
    if what in ("stages", "all"):
        stages.main(stages.SIZES if full else stages.SIZES[:2])
    if what in ("optimum", "all"):
        from bench import optimum

        optimum.main(arguments[1:])
    if what == "contradictions":
        from bench import contradictions

        contradictions.main(arguments[1:])
    if what == "sequences":
        from bench import sequences

        sequences.main(arguments[1:])
    if what in ("placement", "all"):
        from bench import placement

        placement.main(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
