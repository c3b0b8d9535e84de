"""Entities that no training audio names, asked a thousand times: the system beside the cascade, with intervals."""

import json

from bench.figure import RUNS, Figure, above_zero, reported
from bench.quickstart import SEEDS, trained
from sonant.evaluate.metrics.score import Score
from sonant.evaluate.run import evaluate
from sonant.generate.assistant import Assistant
from sonant.generate.recognizer import CTCRecognizer
from sonant.synth.world.make import Sizes, WorldConfig, make_world

NONE = Sizes(asr=0, translation=0, spoken_qa=0, mixed_modal=0, multi_turn=0, text_only=0)
MANY = NONE.model_copy(update={"spoken_qa_heldout": 1000, "spoken_qa": 400})


def measure() -> list[Figure]:
    world = RUNS / "heldout_world"
    make_world(world, config=WorldConfig(train=NONE, dev=NONE, test=MANY))
    figures = []
    for seed in SEEDS:
        out = RUNS / f"heldout{seed}"
        model = Assistant.from_folder(trained(RUNS / f"seed{seed}", seed=seed) / "model")
        evaluate(model, sorted((world / "test").glob("*.jsonl")), out, recognizer=CTCRecognizer.from_parts())
        results = json.loads((out / "results.json").read_text())
        for task, result in sorted(results.items()):
            scores = {arm: score["value"] for arm, score in result["metrics"]["exact_match"].items()}
            what = f"{task}, {result['n']} rows, seed {seed}"
            figures.append(reported(f"{what}: system, cascade", [scores["system"], scores["cascade"]], "%"))
            change = Score(**result["differences"]["system minus cascade"])
            figures.append(above_zero(f"{what}: system minus cascade, paired", change, "points"))
    return figures
