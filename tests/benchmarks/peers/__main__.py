"""Time Treadle's compiled programs beside other frameworks, interleaved, and print Markdown tables.

    python tests/benchmarks/peers                                 # all that is installed (about 15 minutes)
    python tests/benchmarks/peers -w mlp_b64,cnn_b64 -f treadle_compiled,jax,torch_compile
    python tests/benchmarks/peers --json runs.jsonl               # appends the records of this run to a file
    python tests/benchmarks/peers --table runs.jsonl more.jsonl   # runs nothing: the tables of finished runs

`make bench-peers` installs the pinned frameworks of peers.txt in an environment of its own and runs this.

How it measures
  * Every framework lives in a process of its own, so thread pools never share one, and every process is held to the
    same two cores.
  * The first call is timed apart: from the Python function, with its model and inputs made, to the result ready.
    Compiler caches are empty at the start, and each process has compiled something trivial before.
  * The steady state is timed in chunks of about --chunk seconds, framework by framework in turn, so that a slow spell
    of the machine hits all of them. One step is thrown away before each chunk.
  * Where the system allows it (root), chunks run with priority, in two ways taken in turn: real-time (nobody else gets
    a core, but a framework with more busy threads than cores blocks itself) and as a favoured fair session. Either can
    only slow a framework down, so the way with the lower median is the one reported.
  * Results are checked: losses fall, programs without weights agree with NumPy, the others are finite and have the
    right shape.

A framework that is not installed is left out with a line that says so.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.frameworks import FRAMEWORKS
from peers.harness import run
from peers.table import TARGETS, read, tables
from peers.worker import serve


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-w", "--workloads", type=lambda s: s.split(","), default=list(TARGETS), help=", ".join(TARGETS))
    p.add_argument(
        "-f", "--frameworks", type=lambda s: s.split(","), default=list(FRAMEWORKS), help=", ".join(FRAMEWORKS)
    )
    p.add_argument("--repeats", type=int, default=7, help="chunks of each way, per framework and workload")
    p.add_argument("--chunk", type=float, default=0.15, help="seconds per chunk")
    p.add_argument("--budget", type=float, default=8, help="stop a slow pair after so many seconds (and six chunks)")
    p.add_argument("--timeout", type=float, default=300, help="seconds a first call or a chunk may take")
    p.add_argument("--no-priority", action="store_true", help="one way only, as any process: for a machine in use")
    p.add_argument("--json", metavar="FILE", help="append the records to this file, one JSON object a line")
    p.add_argument("--table", metavar="FILE", nargs="+", help="print the tables of these records and end")
    p.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)
    a = p.parse_args()
    for known, given in ((TARGETS, a.workloads), (FRAMEWORKS, a.frameworks)):
        if unknown := sorted(set(given) - set(known)):
            p.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    return a


def main():
    a = options()
    if a.worker:
        serve(a.worker)
        return
    if a.table:
        print(tables(read(a.table)))
        return
    records = []
    for record in run(a):
        records.append(record)
        if a.json:
            with open(a.json, "a") as file:
                file.write(json.dumps(record) + "\n")
    print(tables(records))


if __name__ == "__main__":
    main()
