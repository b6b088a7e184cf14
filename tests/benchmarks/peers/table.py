"""Records of one run or several as Markdown tables.

A ratio is that of medians within one run, where both were timed in turn; over several runs it is the median of the
runs' ratios, and a time the median of the runs' medians.
"""

import json
import statistics

from peers.frameworks import FRAMEWORKS, OURS

EAGER = "treadle"  # shown beside the peers, but no peer

# Workload: what the ratio to the fastest peer should be at most.
TARGETS = {
    "mlp_b64": 0.5,
    "mlp_b1024": 0.8,
    "cnn_b64": 0.55,
    "resnet18_fwd": 0.95,
    "resnet18_train": 0.75,
    "gpt_fwd": 0.8,
    "gpt_train": 0.8,
    "gelu_chain": 0.5,
    "chain10_bwd": 0.7,
}


def read(paths):
    """The records of files of JSON lines; those that do not name their run are of the run of their file."""
    records = []
    for path in paths:
        with open(path) as file:
            records += [{"run": str(path), **json.loads(line)} for line in file if line.strip()]
    return records


def human(seconds):
    """A time with three digits and its unit."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def digits(ratio):
    """A ratio with two digits behind the point, or two that say something."""
    return f"{ratio:.2f}" if ratio >= 0.095 else f"{ratio:.2g}"


class Results:
    """What records say, by workload and framework."""

    def __init__(self, records):
        self.records = records
        self.good = {}  # (workload, framework, figure): {run: seconds}
        for r in records:
            for figure in ("median_s", "first_s"):
                if figure in r and not r.get("problem"):
                    self.good.setdefault((r["workload"], r["framework"], figure), {})[r["run"]] = r[figure]
        self.tried = {(r["workload"], r["framework"]) for r in records if "workload" in r}
        named = {r["framework"] for r in records if "workload" in r}
        self.frameworks = [OURS, *(f for f in FRAMEWORKS if f in named and f != OURS)]
        self.workloads = [w for w in TARGETS if any(w == tried for tried, _ in self.tried)]

    def time(self, workload, framework, figure="median_s"):
        """Seconds, or None."""
        runs = self.good.get((workload, framework, figure))
        return statistics.median(runs.values()) if runs else None

    def ratio(self, workload, framework):
        """Ours to theirs, or None where no run timed both."""
        ours, theirs = (self.good.get((workload, f, "median_s"), {}) for f in (OURS, framework))
        ratios = [ours[run] / theirs[run] for run in ours if run in theirs]
        return statistics.median(ratios) if ratios else None

    def fastest(self, workload):
        """The peer with the highest ratio, that is the one we are least ahead of; or None."""
        peers = [f for f in self.frameworks if f not in (OURS, EAGER) and self.ratio(workload, f) is not None]
        return max(peers, key=lambda f: self.ratio(workload, f), default=None)


def row(results, workload):
    """The cells of a workload: ours, everybody's time and ratio with the fastest peer in bold, its ratio, the target."""
    fastest = results.fastest(workload)
    cells = [workload]
    for framework in results.frameworks:
        t, ratio = results.time(workload, framework), results.ratio(workload, framework)
        if t is None:
            cells.append("fails" if (workload, framework) in results.tried else "–")
        elif framework == OURS or ratio is None:
            cells.append(human(t))
        else:
            cell = f"{human(t)} ({digits(ratio)})"
            cells.append(f"**{cell}**" if framework == fastest else cell)
    target = TARGETS[workload]
    if fastest is None:
        return [*cells, "–", str(target)]
    best = results.ratio(workload, fastest)
    return [*cells, digits(best), f"{target}, {'met' if best <= target else 'missed'}"]


def first_calls(results, workload):
    times = [results.time(workload, f, "first_s") for f in results.frameworks]
    return [workload, *("–" if t is None else human(t) for t in times)]


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def notes(results):
    """A line for each framework that is not installed and for each failure, and one about the runs."""
    lines = []
    for r in results.records:
        if "missing" in r:
            lines.append(f"* {r['framework']} is left out: {', '.join(r['missing'])} not installed")
        elif "error" in r or r.get("problem"):
            text = r.get("error") or r["problem"]
            lines.append(f"* {r['framework']} fails at {r['workload']}: {text.strip().splitlines()[-1]}")
    versions = {r["framework"]: r["version"] for r in results.records if "version" in r}
    runs = sorted({r["run"] for r in results.records})
    about = [
        *sorted({r["machine"] for r in results.records if "machine" in r}),
        f"{len(runs)} run(s): {', '.join(runs)}",
    ]
    if versions:
        about.append(", ".join(f"{f} {v}" for f, v in versions.items()))
    return "\n".join([*dict.fromkeys(lines), "* " + "; ".join(about)])


def tables(records):
    """The Markdown of records: steady state, first calls, notes."""
    results = Results(records)
    steady = markdown(
        ["workload", *results.frameworks, "to the fastest", "target"], [row(results, w) for w in results.workloads]
    )
    first = markdown(["first call", *results.frameworks], [first_calls(results, w) for w in results.workloads])
    return f"{steady}\n\n{first}\n\n{notes(results)}"
