"""The configurations that this distribution offers through the entry point `testorch.defaults`."""
