"""The least that level L1 allows: the 44 kernels for the element types that it requires, and nothing else."""

from odd.saboteurs import Plain
from treadle.conformance.checks import MOVED, REQUIRED
from treadle.dtypes import int64
from treadle.runtime.backend import ACCEPTS, Claim
from treadle.sig import Sig


class Minimal(Plain):
    """Correct, with few claims; no composite, no half precision, no float64, int64 only where elements are moved."""

    def candidates(self, op):
        if op.tier != "kernel":
            return []
        kinds = REQUIRED | {int64} if op.name in MOVED else REQUIRED
        return [Claim(op.name, kinds, (ACCEPTS["strided"],), None, True)]

    def bind(self, call):
        main = call.ins[call.op.main] if call.ins else None
        kind = main.dtype if isinstance(main, Sig) else call.outs[0].dtype
        return super().bind(call) if any(kind in c.dtypes for c in self.candidates(call.op)) else None
