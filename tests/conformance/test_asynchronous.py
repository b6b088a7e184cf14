"""A backend that computes later passes everything, and nothing is skipped."""

import treadle as td
from odd.asynchronous import Asynchronous
from treadle.conformance.pytest_plugin import *  # noqa: F403

DEVICE = "asynchronous"
td.register_backend(DEVICE, Asynchronous)
