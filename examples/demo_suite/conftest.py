"""A small suite with every outcome that pytest knows. `testorch demo` runs it; five of its tests go wrong on purpose."""

import pytest


@pytest.fixture
def database():
    yield {"users": ["ada", "grace"]}


@pytest.fixture
def broken_database():
    raise ConnectionError("the database did not answer within 3 s")


@pytest.fixture
def leaky_session():
    yield "session"
    raise RuntimeError("the session was still open at teardown")
