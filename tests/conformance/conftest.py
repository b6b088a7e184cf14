"""Makes the odd backends of this folder importable: `from odd.dense_only import DenseOnly`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
