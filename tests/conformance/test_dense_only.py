"""A backend without strides passes everything, and nothing is skipped."""

from odd.dense_only import DenseOnly

import treadle as td
from treadle.conformance.pytest_plugin import *  # noqa: F403

DEVICE = "dense_only"
COMPLETE = True
td.register_backend(DEVICE, DenseOnly)
