import subprocess
import sys

STORY = """
import gc, sys
from sonant.cli.imports import quick_imports

with quick_imports():
    import sonant.cli.main
    sys.modules["torch"] = sys  # as if it were here: to import it takes seconds
    assert not gc.isenabled()
assert gc.isenabled()
many = gc.get_freeze_count()
assert many > 10_000
with quick_imports():  # of nothing new: what there is now may be garbage one day
    assert gc.isenabled()
assert gc.get_freeze_count() == many
"""


def test_no_garbage_is_looked_for_among_what_is_imported() -> None:
    subprocess.run([sys.executable, "-c", STORY], check=True)
