"""The CPU backend passes; without it installed there is nothing to test."""

from treadle.conformance.pytest_plugin import *  # noqa: F403

DEVICE = "cpu"
