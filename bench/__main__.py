"""`python -m bench [NAME...]`: measures what the README promises and prints asked / measured.

startup      `sonant --help`
suite        the unit tests, and `make test` in all
quickstart   wall time and peak memory; the scores of three seeds; the arm that forgets
heldout      a thousand questions about entities that no training audio names
voices       engines and voices left out of all training; human digits, zero-shot
speakers     who and how by a linear probe of either encoder, unseen speakers
human        fine-tuned on human digits
resume       killed at random steps, also while saving
ranks        2 ranks against 1; resume on 2, 1 and 4
weak_scaling as many micro-batches as ranks, on 1, 2 and 4 of them
thousand_ranks  what a thousand ranks are dealt of a million rows
gpu          MFU, tokens/s and memory at 1 B and 3 B; says so where there is no GPU
importers    20,000 rows of every kind
doctor       a million rows, and planted faults
builders     two runs of every builder with one seed
speechmapper SpeechMapper: wall, step cost by depth, both stages beside the published method
wavllm       two encoders, two stages: who, how, several instructions at once, and the arms of stage 2
spectron     spoken answers: word errors by two listeners, movement, stops, voices, speed; the published form, ablations
vocoder      Griffin-Lim and the tiny vocoder: word errors, distance, time to the first sound
speaking     ten thousand sentences spoken and stored
speaking_aloud  how fast an answer is said: real-time factor, time to first sound
serving      a server: first token, 32 clients, overload, SIGTERM, beside `transformers serve`
fuzz         2,400 damaged recordings against a running server
realtime     turns found in noise, turns in noise alone; end of a turn to the first word over a WebSocket
page         the page in Chromium: end of speech to the first word on the screen
batch        8 unequal clips together against each alone
decoding     greedy decoding against transformers' own generate; steps a second; what a CTC guess saves
long_audio   a second of audio in clips of 300 s against clips of 3 s: a training step, encoding
fit          a step planned from shapes beside the real one: operations, memory, time
precision    fp32, the faster kernels of fp32, bf16: CPU time of a step, and 500 steps of loss
peers        training and decoding beside NeMo and the plain transformers loop
cache        frames of a frozen encoder written, read, and trained from
"""

import argparse
import importlib
import os

NAMES = (
    "startup",
    "batch",
    "decoding",
    "peers",
    "precision",
    "resume",
    "ranks",
    "weak_scaling",
    "thousand_ranks",
    "gpu",
    "quickstart",
    "heldout",
    "voices",
    "speakers",
    "human",
    "importers",
    "doctor",
    "speaking",
    "speaking_aloud",
    "page",
    "serving",
    "fuzz",
    "realtime",
    "builders",
    "cache",
    "fit",
    "long_audio",
    "speechmapper",
    "wavllm",
    "spectron",
    "vocoder",
    "suite",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(NAMES)}; all by default")
    names = parser.parse_args().names or NAMES
    unknown = set(names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(NAMES)}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from bench.figure import show

    for name in names:
        show(name, importlib.import_module(f"bench.{name}").measure())


if __name__ == "__main__":
    main()
