"""What a plugin's import-light module needs: the hook marker and the manifest. Standard library and pluggy only.

from treadle.plugin import BackendManifest, hookimpl

@hookimpl
def treadle_backend():
    return BackendManifest(devices=["mine"], load="treadle_backend_mine.backend:MineBackend")
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pluggy

CONTRACT = (1, 0)  # (major, minor): a plugin may be one major behind, and any minor
PROJECT = "treadle"
hookimpl = pluggy.HookimplMarker(PROJECT)
hookspec = pluggy.HookspecMarker(PROJECT)


@dataclass(frozen=True)
class Availability:
    """Answer of a probe: can the device be used on this machine, and if not, why and what would help."""

    ok: bool
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class BackendManifest:
    """Identity of a backend: facts that need no hardware. What it can compute is read from its kernels, never listed
    here.

    devices: device names it provides. load: "module:Class", imported at the first use of a device. probe:
    "module:function" returning Availability without creating a context. default_rank: the highest available rank is the
    default device (0: never). host: its memory is host memory (NumPy can view it).
    """

    devices: Sequence[str]
    load: str
    contract: tuple[int, int] = CONTRACT
    default_rank: int = 0
    host: bool = False
    probe: str = ""
    homepage: str = ""
    report: str = ""
