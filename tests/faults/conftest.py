"""Fault harnesses have a quick version that always runs, and a long one: `pytest --long-faults`."""

import pytest


@pytest.fixture
def long_faults(request: pytest.FixtureRequest) -> None:
    """For long versions."""
    if not request.config.getoption("--long-faults"):
        pytest.skip("a long version; `pytest --long-faults` runs it")
