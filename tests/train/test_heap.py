import subprocess
import sys

STORY = """
import resource
import numpy as np
from sonant.train.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2_000_000)  # 16 MB, given back at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual, kept = faults(), keep_freed_memory()
faults()
print(int(kept), usual, faults())
"""


def test_memory_that_is_given_back_is_not_faulted_in_again() -> None:
    said = subprocess.run([sys.executable, "-c", STORY], capture_output=True, text=True, check=True).stdout
    kept, usual, afterwards = map(int, said.split())
    assert not kept or afterwards < usual / 10  # other C libraries cannot be told
