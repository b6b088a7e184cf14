"""All tests: every graph is verified after every pass, in this process and in those that tests start."""

import os

from treadle.config import config

os.environ["TREADLE_VERIFY_PASSES"] = "1"
config.verify_passes = True
