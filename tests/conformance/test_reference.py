"""The reference device, which everything is compared with, passes its own suite."""

from treadle.conformance.pytest_plugin import *  # noqa: F403

DEVICE = "reference"
