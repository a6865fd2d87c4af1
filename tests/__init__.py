"""The tests. A package, because other distributions install a top-level one of this name."""
