"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: the machine may be busy. In CI the same examples each time; elsewhere new ones, which is how bugs are found.
settings.register_profile("ticker", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ticker")
