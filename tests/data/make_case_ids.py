"""Writes case_ids.txt: per block of the conformance suite how many cases it has, and a hash of their ids.

    python tests/data/make_case_ids.py

Ids are what reports and known failures refer to, so they may be added to but not change their meaning: the test that
compares this file with the suite is there to make a change deliberate.
"""

import hashlib
from pathlib import Path

from treadle.conformance.runner import LEVELS, blocks

TARGET = Path(__file__).with_name("case_ids.txt")


def lines():
    """`name count hash` of every block."""
    out = []
    for level in LEVELS:
        for block in blocks(level):
            ids = [case.id for case in block.make()]
            out.append(f"{block.name} {len(ids)} {hashlib.sha256(' '.join(ids).encode()).hexdigest()[:10]}")
    return out


if __name__ == "__main__":
    TARGET.write_text("\n".join(lines()) + "\n")
