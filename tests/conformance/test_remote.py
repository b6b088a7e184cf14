"""A backend whose memory the host cannot address passes everything, and nothing is skipped."""

from odd.remote import Remote

import treadle as td
from treadle.conformance.pytest_plugin import *  # noqa: F403

DEVICE = "remote"
COMPLETE = True
td.register_backend(DEVICE, Remote)
