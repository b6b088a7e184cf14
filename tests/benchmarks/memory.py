"""Peak memory of training steps: what parameters, optimizer, activations and working memory take together.

For Treadle the high-water mark of its allocator, with the scratch memory of kernels. For PyTorch what its profiler
saw allocated, without what oneDNN and OpenMP allocate for themselves. Every number comes from a process of its own.
"""

import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import programs

WORKLOADS = [name for name, w in programs.WORKLOADS.items() if w.trains]


def treadle_peak(book, workload):
    """Bytes that two steps need at most, above what there was before the model."""
    backend = book.t.get_default_device().backend
    backend.empty_cache()
    before = backend.memory_stats()["live"]
    step = book.wrap(getattr(book, workload)())
    for _ in range(2):
        step()
    gc.collect()
    backend.memory_stats(reset_peak=True)
    for _ in range(2):
        step()
    return backend.memory_stats()["peak"] - before


def torch_peak(book, workload):
    """Bytes that its CPU allocator gave out at most while it was profiled, from the building of the model on."""
    profiler = book.t.profiler
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        step = getattr(book, workload)()
        for _ in range(3):
            step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


def measure(package, compiled, workload):
    book = programs.Programs(package, compiled=compiled)
    print((torch_peak if package == "torch" else treadle_peak)(book, workload))


def table(frameworks, workloads):
    """Print a row per training workload: megabytes per framework, ratios to the first.

    frameworks: name -> (package, compiled).
    """
    names = list(frameworks)
    print(f"| workload | {names[0]} | " + " | ".join(f"{n} | ratio" for n in names[1:]) + " |")
    print("|---" * (2 * len(names)) + "|")
    for workload in (w for w in workloads if w in WORKLOADS):
        peaks = [_in_a_process(*frameworks[n], workload) for n in names]
        cells = [f"{peaks[0] / 1e6:.2f} MB"]
        for p in peaks[1:]:
            cells += [f"{p / 1e6:.2f} MB", f"{peaks[0] / p:.2f}"]
        print(f"| {workload} | " + " | ".join(cells) + " |", flush=True)


def _in_a_process(package, compiled, workload):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import memory; "
    code += f"memory.measure({package!r}, {compiled!r}, {workload!r})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(out.split()[-1])
