"""Running the suite on a device: a table per op, failing cases with a stand-alone repro, and a closing line.

    from treadle.conformance import run
    assert run("reference", "L1").ok

Everything runs in this process; a crash of the device ends it. Isolation of blocks in workers, reports that can be
verified, and the levels L2 and L3 have their place here: LEVELS says what a level consists of, Result is what a report
is written from.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from treadle.conformance.case import STATUSES, Block, Case, Outcome
from treadle.conformance.checks import carried_out
from treadle.conformance.repro import repro
from treadle.conformance.suites import graphs, kernels, loads, randoms, refusals
from treadle.errors import ArgumentError
from treadle.runtime.device import device as Device
from treadle.runtime.dispatch import fallback

LEVELS: dict[str, tuple[Callable[..., Iterator[Block]], ...]] = {
    "L0": (loads.blocks,),
    "L1": (kernels.blocks, refusals.blocks),
    "graph": (graphs.blocks, randoms.blocks),
}
POLICY = {"L0": "allow", "L1": "error", "graph": "allow"}
SHOWN = 20  # failing cases printed in full


@dataclass
class Result:
    """What became of every case of a run."""

    device: str
    level: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    cases: dict[str, Case] = field(default_factory=dict)  # those that failed

    @property
    def counts(self) -> Counter[str]:
        """How many cases have each status."""
        return Counter(o.status for o in self.outcomes.values())

    @property
    def failures(self) -> list[str]:
        """Ids of the cases that failed or would have run on the host."""
        return [id for id, o in self.outcomes.items() if o.status in ("F", "FB")]

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        n = self.counts
        text = f"conform {self.device} {self.level}: {n['P']} passed, {n['F']} failed, {n['U']} unsupported"
        return text + (f", {n['FB']} would run on the host" if n["FB"] else "")


def blocks(level: str, seed: int = randoms.SEED, count: int = randoms.COUNT) -> Iterator[Block]:
    """The blocks of a level; ArgumentError for one that does not exist. seed, count: of random programs."""
    if level not in LEVELS:
        raise ArgumentError(f"conform: no level {level!r}; there are {', '.join(LEVELS)}")
    for suite in LEVELS[level]:
        yield from suite(seed, count) if suite is randoms.blocks else suite()


def find(id: str) -> Case:
    """Return the case of an id such as add/f32/broadcast-3.

    >>> from treadle.conformance import find
    >>> find("add/f32/3").args
    (Arg(shape=(4, 5), kind='main', low=-9, high=9), Arg(shape=(4, 5), kind='main', low=-9, high=9))
    """
    name = id.rpartition("/")[0]
    for level in LEVELS:
        for block in blocks(level, *randoms.named(id)):
            if block.name == name:
                for case in block.make():
                    if case.id == id:
                        return case
    raise ArgumentError(f"conform: no case {id!r}; `treadle conform DEVICE --list` shows all")


def run_block(block: Block, device: Any, select: Callable[[str], bool] | None = None) -> Iterator[tuple[Case, Outcome]]:
    """Carry out the cases of a block, in the policy that is in force."""
    for case in block.make():
        if select is None or select(case.id):
            yield case, carried_out(case, device)


def run(
    device: str,
    level: str = "L1",
    case: str | None = None,
    ops: Sequence[str] | None = None,
    seed: int = randoms.SEED,
    count: int = randoms.COUNT,
) -> Result:
    """Run a level of the suite on a device, or only one case or the blocks of some ops, and return the Result.

    seed, count: which random programs the level `graph` has, and how many; they are the blocks of the op `random`.
    """
    seed, count = randoms.named(case) if case else (seed, count)
    place = Device(device)
    place.backend  # noqa: B018 - constructed now, so that a broken plugin is named before the first case
    result = Result(str(place.type), level)
    wanted = (lambda id: id == case) if case else None
    with fallback(POLICY.get(level, "error")):
        for block in blocks(level, seed, count):
            if (ops and block.name.split("/")[0] not in ops) or (case and block.name != case.rpartition("/")[0]):
                continue
            for found, outcome in run_block(block, place, wanted):
                result.outcomes[found.id] = outcome
                if outcome.status in ("F", "FB"):
                    result.cases[found.id] = found
    return result


# ---- text ----------------------------------------------------------------------------------------------------------
def table(result: Result) -> str:
    """Counts of every status, a line per op, and the largest error of its cases in units of what is allowed."""
    rows: dict[str, Counter[str]] = {}
    worst: dict[str, float] = {}
    for id, outcome in result.outcomes.items():
        name = id.split("/")[0]
        rows.setdefault(name, Counter())[outcome.status] += 1
        worst[name] = max(worst.get(name, 0.0), outcome.worst)
    width = max(map(len, rows), default=4)
    lines = [f"{'op':{width}} " + " ".join(f"{s:>6}" for s in STATUSES) + "   worst"]
    for name, counts in rows.items():
        lines.append(f"{name:{width}} " + " ".join(f"{counts[s] or '':>6}" for s in STATUSES) + f"   {worst[name]:.2f}")
    return "\n".join(lines)


def failures(result: Result) -> str:
    """Every failing case with its reason; the first ones with a repro."""
    lines = []
    for n, id in enumerate(result.failures):
        outcome = result.outcomes[id]
        lines.append(f"{outcome.status} {id}: {outcome.text}")
        if n < SHOWN:
            lines += ["    " + line for line in repro(result.cases[id], result.device).splitlines()]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `treadle conform`."""
    parser.add_argument("device", help="the device to check, for example one of `treadle devices`")
    parser.add_argument(
        "--level",
        default="L1",
        choices=sorted(LEVELS),
        help="L0: the runtime; L1: every kernel, composite and gradient; graph: the same compiled",
    )
    parser.add_argument("--op", action="append", help="only this op; may be repeated; `random`: the random programs")
    parser.add_argument("--case", help="only the case of this id, for example add/f32/broadcast-3")
    parser.add_argument("--seed", type=int, default=randoms.SEED, help="of the random programs of level graph")
    parser.add_argument("--count", type=int, default=randoms.COUNT, help="how many random programs (default: 100)")
    parser.add_argument("--list", action="store_true", help="list the ids of all cases and run none")


def main(args: argparse.Namespace, out: TextIO | None = None) -> int:
    """Run what the parsed arguments ask for; 0 when everything passed or is declared as unsupported, else 1."""
    out = out or sys.stdout
    if args.list:
        for block in blocks(args.level, args.seed, args.count):
            if not args.op or block.name.split("/")[0] in args.op:
                print("\n".join(case.id for case in block.make()), file=out)
        return 0
    result = run(args.device, args.level, args.case, args.op, args.seed, args.count)
    if not result.outcomes:
        raise ArgumentError(f"conform: no case matches {args.case or args.op}; --list shows all")
    print(table(result), file=out)
    if result.failures:
        print(failures(result), file=out)
    print(result, file=out)
    return 0 if result.ok else 1
