"""The manifest: identity only, no hardware touched."""

from treadle.plugin import BackendManifest, hookimpl


@hookimpl
def treadle_backend():
    """Provide the device "cpu"."""
    return BackendManifest(
        devices=["cpu"],
        load="treadle_backend_cpu.backend:CpuBackend",
        default_rank=10,
        host=True,
        probe="treadle_backend_cpu.probe:probe",
    )
