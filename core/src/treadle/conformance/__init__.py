"""The conformance suite: what a backend must do, as cases that anybody can run on any device.

    treadle conform DEVICE --level L1          the command
    treadle.conformance.run("DEVICE", "L1")    the same from Python
    from treadle.conformance.pytest_plugin import *     in a plugin's tests, beside DEVICE = "..."

Cases are generated from the declarations of the ops, judged by the numeric class declared there, and know nothing of
the device but its name. case: what a case is · layouts, values: operands · magnitude, oracle: what is expected ·
tolerances: how far it may be off · checks: how a case is carried out · programs: random ones · suites: what is checked
· runner: the run and its text.
"""

from treadle.conformance.runner import Result as Result
from treadle.conformance.runner import find as find
from treadle.conformance.runner import run as run

__all__ = ["Result", "find", "run"]
