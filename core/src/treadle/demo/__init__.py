"""The demonstration behind ``treadle demo``: train, look, save, load again elsewhere, compare."""
