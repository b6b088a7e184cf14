"""Makes `pass_tools` of this folder and `graph_tools` of tests/core/ir importable."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ir")]
