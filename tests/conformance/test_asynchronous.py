"""A backend that computes later passes everything, and nothing is skipped."""

from odd.asynchronous import Asynchronous

import treadle as td
from treadle.conformance.pytest_plugin import *  # noqa: F403

DEVICE = "asynchronous"
COMPLETE = True
td.register_backend(DEVICE, Asynchronous)
