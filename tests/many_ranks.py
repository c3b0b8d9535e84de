"""Commands in several processes, as torchrun starts them."""

import os
import subprocess
import sys


def torchrun(*command: object, ranks: int = 2) -> str:
    """Returns what `sonant COMMAND` prints in so many processes, all of which end well."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    whole = [*start, "-m", "sonant", *map(str, command)]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
