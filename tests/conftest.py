"""Shared by all tests."""

from hypothesis import settings

# A busy machine is no failure: how long an example takes is a matter for bench/.
settings.register_profile("sonant", deadline=None)
settings.load_profile("sonant")
