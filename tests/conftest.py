"""Shared by all tests."""

import gc

from hypothesis import settings

# Every few thousand objects Python would look through the millions of torch and transformers, for circles that nobody
# left: a tenth of the tests' time.
gc.set_threshold(50_000, 20, 100)

# A busy machine is no failure: how long an example takes is a matter for bench/.
settings.register_profile("sonant", deadline=None)
settings.load_profile("sonant")
