"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("glimpse", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("glimpse")
