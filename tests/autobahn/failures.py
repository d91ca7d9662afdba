"""What keeps the suite from running at all. A case that fails is a result, not one of these."""

from __future__ import annotations


class SuiteError(Exception):
    """The suite could not be installed, started or finished; says why and what to do."""
