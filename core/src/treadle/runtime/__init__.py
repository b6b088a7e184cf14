"""The seam that third parties read: devices, layouts, storage, backends, plugins, dispatch."""
