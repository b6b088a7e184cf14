"""Discovery: who provides which device, loaded one by one so that a broken plugin is a row with a reason, never an
exception here.

Nothing is looked for at import. The first device look-up walks the entry points `treadle.plugins`, sorted by name and
distribution, imports each light manifest module alone, checks its hooks against the specs, and asks for its manifests.
"""

import importlib
import inspect
import threading
import traceback
import warnings
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from treadle.config import config
from treadle.errors import BackendUnavailable, DeviceError
from treadle.plugin import CONTRACT, PROJECT, Availability, BackendManifest
from treadle.runtime import hookspecs

GROUP = "treadle.plugins"
USABLE = ("ok", "newer", "degraded")


@dataclass
class Plugin:
    """One discovered plugin: what it says it is, and what became of it.

    status: ok, unavailable, broken, incompatible, shadowed, disabled, degraded, newer.
    """

    name: str
    dist: str = ""
    version: str = ""
    path: str = ""
    status: str = "ok"
    reason: str = ""
    remedy: str = ""
    trace: str = ""
    manifests: list[BackendManifest] = field(default_factory=list)

    @property
    def devices(self) -> list[str]:
        return [d for m in self.manifests for d in m.devices]


class Registry:
    """All plugins and the backends they provide. One per process; `discover` runs once."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self.providers: dict[str, tuple[Plugin, BackendManifest]] = {}
        self.backends: dict[str, Any] = {}
        self.probed: dict[int, Availability] = {}
        self.discovered = False
        self.lock = threading.RLock()

    # ---- discovery -------------------------------------------------------------------------------------------------
    def discover(self) -> None:
        with self.lock:
            if self.discovered:
                return
            self.discovered = True
            for entry in sorted(
                metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.dist.name if e.dist else "")
            ):
                self.add(entry)

    def add(self, entry: Any) -> Plugin:
        """Load one entry point's module and take its manifests; failures become the plugin's status."""
        plugin = Plugin(entry.name, path=entry.value)
        if entry.dist:
            plugin.dist, plugin.version = entry.dist.name, entry.dist.version
        self.plugins.append(plugin)
        if f"-{entry.name}" in config.plugins.replace(",", " ").split():
            plugin.status, plugin.reason = "disabled", "switched off by TREADLE_PLUGINS"
            plugin.remedy = f"remove -{entry.name} from TREADLE_PLUGINS"
            return plugin
        try:
            self._take(plugin, entry.load())
        except Exception as e:
            self._broken(plugin, e, f"pip install --force-reinstall {plugin.dist or entry.name}")
        return plugin

    def _take(self, plugin: Plugin, module: Any) -> None:
        problem = _hook_problem(module)
        if problem:
            plugin.status, plugin.reason, plugin.remedy = (
                "incompatible",
                problem,
                "install versions of treadle and the plugin that match",
            )
            return
        self.manager.register(module, name=f"{plugin.dist}:{plugin.name}:{id(module)}")
        others = [p for p in self.manager.get_plugins() if p is not module]
        for answer in self.manager.subset_hook_caller("treadle_backend", others)():
            for manifest in answer if isinstance(answer, list) else [answer]:
                self.provide(plugin, manifest)

    def provide(self, plugin: Plugin, manifest: BackendManifest) -> None:
        """Make a manifest's devices known, unless its contract does not fit or another plugin has the name."""
        plugin.manifests.append(manifest)
        (major, minor), (core_major, core_minor) = manifest.contract, CONTRACT
        if major not in (core_major, core_major - 1) or (config.contract_strict and manifest.contract != CONTRACT):
            plugin.status = "incompatible"
            plugin.reason = f"it speaks contract {major}.{minor}, this core {core_major}.{core_minor}"
            plugin.remedy = f"pip install --upgrade treadle {plugin.dist}"
            return
        if major == core_major and minor > core_minor:
            plugin.status, plugin.reason = (
                "newer",
                f"contract {major}.{minor} is newer than {core_major}.{core_minor}; its additions are ignored",
            )
        for name in manifest.devices:
            if name in self.providers:
                owner = self.providers[name][0]
                plugin.status, plugin.reason = (
                    "shadowed",
                    f"device {name!r} is already provided by {owner.dist or owner.name}",
                )
                plugin.remedy = f"set TREADLE_PLUGINS=-{owner.name} to use this one"
                warnings.warn(
                    f"treadle: plugin {plugin.name}: {plugin.reason}; {plugin.remedy}", RuntimeWarning, stacklevel=3
                )
            else:
                self.providers[name] = (plugin, manifest)

    # ---- use -------------------------------------------------------------------------------------------------------
    def availability(self, manifest: BackendManifest) -> Availability:
        """Ask the manifest's probe once; a probe that raises means unavailable."""
        known = self.probed.get(id(manifest))
        if known is None:
            try:
                known = _resolve(manifest.probe)() if manifest.probe else Availability(True)
            except Exception as e:
                known = Availability(False, f"its probe failed: {e!r}", "run `treadle doctor`")
            self.probed[id(manifest)] = known
        return known

    def require(self, name: str) -> tuple[Plugin, BackendManifest]:
        """Return who provides a device name; DeviceError that lists the known ones."""
        if name not in self.providers:
            self.discover()
        if name not in self.providers:
            missing = [p for p in self.plugins if p.name == name]
            if missing:
                raise BackendUnavailable(_explain(name, missing[0]))
            known = ", ".join(sorted(self.providers))
            raise DeviceError(
                f"device: nobody provides {name!r}; available: {known}; `pip install "
                f"treadle-backend-{name.replace('_', '-')}` might"
            )
        return self.providers[name]

    def backend(self, name: str) -> Any:
        """Return the backend of a device name, imported and constructed at the first use.

        BackendUnavailable says why not.
        """
        with self.lock:
            if name in self.backends:
                return self.backends[name]
            plugin, manifest = self.require(name)
            answer = self.availability(manifest)
            if not answer.ok:
                plugin.status, plugin.reason, plugin.remedy = "unavailable", answer.reason, answer.remedy
                raise BackendUnavailable(_explain(name, plugin))
            try:
                made = _resolve(manifest.load)()
            except Exception as e:
                self._broken(plugin, e, f"treadle doctor {name}")
                raise BackendUnavailable(_explain(name, plugin)) from e
            made.name = name
            self.backends[name] = made
            return made

    def _broken(self, plugin: Plugin, error: Exception, remedy: str) -> None:
        plugin.status, plugin.reason, plugin.remedy = "broken", f"{type(error).__name__}: {error}", remedy
        plugin.trace = "".join(traceback.format_exception(error))

    def best(self) -> str:
        """The available device name with the highest default rank."""
        self.discover()
        ranked = sorted(self.providers.items(), key=lambda kv: -kv[1][1].default_rank)
        for name, (plugin, manifest) in ranked:
            if manifest.default_rank <= 0 or plugin.status not in USABLE or not self.availability(manifest).ok:
                continue
            try:
                self.backend(name)
            except BackendUnavailable as e:
                warnings.warn(f"treadle: {e}; the next best device is used", RuntimeWarning, stacklevel=2)
                continue
            return name
        return BUILT_IN

    def host(self) -> str:
        """The device name whose memory is host memory."""
        self.discover()
        hosts = [
            (m.default_rank, n)
            for n, (p, m) in self.providers.items()
            if m.host and p.status in USABLE and self.availability(m).ok
        ]
        return max(hosts)[1] if hosts else BUILT_IN


def _hook_problem(module: Any) -> str:
    """What is wrong with a module's hooks: an unknown hook, or arguments the spec does not have."""
    for name, member in vars(module).items():
        if not getattr(member, f"{PROJECT}_impl", None):
            continue
        spec = getattr(hookspecs, name, None)
        if spec is None:
            return f"it implements {name}, which this core does not know"
        extra = set(inspect.signature(member).parameters) - set(inspect.signature(spec).parameters)
        if extra:
            return f"its {name} takes {sorted(extra)}, which the hook does not pass"
    return ""


def _resolve(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _explain(name: str, plugin: Plugin) -> str:
    text = f"device {name!r} ({plugin.dist or plugin.name} {plugin.version}) is {plugin.status}: {plugin.reason}"
    return f"{text}. What would help: {plugin.remedy}" if plugin.remedy else text


BUILT_IN = "reference"
REGISTRY = Registry()
REGISTRY.providers[BUILT_IN] = (
    Plugin(BUILT_IN, "treadle", path=__name__),
    BackendManifest([BUILT_IN], "treadle.runtime.reference:ReferenceBackend", host=True),
)
require, backend, best, host = REGISTRY.require, REGISTRY.backend, REGISTRY.best, REGISTRY.host


def plugins() -> list[Plugin]:
    """Return all plugins found, each with its status, reason and remedy.

    >>> import treadle as td
    >>> isinstance(td.plugins(), list)
    True
    """
    REGISTRY.discover()
    for plugin in REGISTRY.plugins:
        for manifest in plugin.manifests:
            answer = REGISTRY.availability(manifest)
            if not answer.ok and plugin.status == "ok":
                plugin.status, plugin.reason, plugin.remedy = "unavailable", answer.reason, answer.remedy
    return list(REGISTRY.plugins)


def register_backend(name: str, backend_class: Any, *, default_rank: int = 0, host: bool = False) -> None:
    """Provide a device from a class in this process, without a package (tests, notebooks)."""
    manifest = BackendManifest(
        [name], f"{backend_class.__module__}:{backend_class.__qualname__}", default_rank=default_rank, host=host
    )
    REGISTRY.providers[name] = (Plugin(name, "(registered in this process)"), manifest)
    REGISTRY.backends[name] = made = backend_class()
    made.name = name
