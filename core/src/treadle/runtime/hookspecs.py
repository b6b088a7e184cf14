"""The hooks a plugin may implement: few, nouns, one sentence each. They register; nothing calls them per op."""

from typing import Any

from treadle.plugin import hookspec


@hookspec
def treadle_backend() -> Any:
    """Return the BackendManifest (or a list of them) of the devices this plugin provides."""
