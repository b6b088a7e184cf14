"""A backend without strides passes everything, and nothing is skipped."""

import treadle as td
from odd.dense_only import DenseOnly
from treadle.conformance.pytest_plugin import *  # noqa: F403

DEVICE = "dense_only"
td.register_backend(DEVICE, DenseOnly)
