"""Settings read once from the environment: each is a TREADLE_* variable with a default."""

import os
from dataclasses import dataclass, field


def _flag(name: str, default: str) -> bool:
    return os.environ.get(name, default).lower() not in ("0", "", "false", "no")


@dataclass
class Config:
    """The process-wide settings; change an attribute to override the environment."""

    device: str | None = field(default_factory=lambda: os.environ.get("TREADLE_DEVICE") or None)
    fallback: str = field(default_factory=lambda: os.environ.get("TREADLE_FALLBACK", "warn"))
    plugins: str = field(default_factory=lambda: os.environ.get("TREADLE_PLUGINS", ""))
    checks: bool = field(default_factory=lambda: _flag("TREADLE_CHECKS", "1"))
    log: str = field(default_factory=lambda: os.environ.get("TREADLE_LOG", ""))
    verify: bool = field(default_factory=lambda: _flag("TREADLE_VERIFY", "0"))
    verify_passes: bool = field(default_factory=lambda: _flag("TREADLE_VERIFY_PASSES", "0"))
    contract_strict: bool = field(default_factory=lambda: _flag("TREADLE_CONTRACT_STRICT", "0"))

    def logs(self, topic: str) -> bool:
        """Whether messages about a topic are wanted: TREADLE_LOG is a list of topics, separated by commas."""
        return topic in self.log.split(",")


config = Config()
