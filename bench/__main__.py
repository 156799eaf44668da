"""`python -m bench [PART]`: every figure that is claimed.

PART is stages, optimum, placement, contradictions, sequences, all, run, lab, boot, serve, fence, credit,
import or backup.

`run`, `lab`, `boot`, `serve` and `fence` are the engine's, the fires', the cold start's, the war room's and
the self-fence's (see `run_figures`, `lab_figures`, `bench_boot`, `bench_serve`, `bench_fence`); `all` is the
planner's.
FULL=1 runs all sizes and all instances; the default is a sample of a few minutes.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from bench import stages


def main(arguments: list[str]) -> int:
    """Run what is asked for, stages by default."""
    what = arguments[0] if arguments else "all"
    if what == "measure":
        print(json.dumps(stages.measure(int(arguments[1]), int(arguments[2]))))
        return 0
    if what in ("run", "lab", "boot", "serve", "fence", "backup"):
        # Whoever ends this with SIGTERM, as `timeout` does, leaves no server behind either.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if what == "run":
        from bench import run_figures

        return run_figures.main(arguments[1:])
    if what == "lab":
        from bench import lab_figures

        return lab_figures.main(arguments[1:])
    if what == "boot":
        from bench import bench_boot

        return bench_boot.main(arguments[1:])
    if what == "serve":
        from bench import bench_serve

        return bench_serve.main(arguments[1:])
    if what == "fence":
        from bench import bench_fence

        return bench_fence.main(arguments[1:])
    if what == "credit":
        from bench import bench_credit

        return bench_credit.main(arguments[1:])
    if what == "backup":
        from bench import bench_backup

        return bench_backup.main(arguments[1:])
    if what == "import":
        from bench import bench_import

        return bench_import.main(arguments[1:])
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
