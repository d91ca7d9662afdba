"""The contracts: for each family of plugins, its interface's promises as tests. Import them from `testorch_core.testing`."""
