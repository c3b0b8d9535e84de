from dataclasses import replace
from itertools import permutations

import pytest

from sonant.chat.messages import AudioPart, Conversation, TextPart, assistant, user
from sonant.data.prompts import Split, fill
from sonant.errors import ConfigError
from sonant.synth.combined import CombinedConfig, Combiner, load_combined, split_of_combination

WORDS = {"train": ["write"], "dev": ["note"], "test": ["pen"]}
FRAMES = {
    1: {"train": ["only {one}"], "dev": ["just {one}"], "test": ["one: {one}"]},
    2: {"train": ["first {one}; then {two}."], "dev": ["a {one}, b {two}"], "test": ["{audio} begin {one}, end {two}"]},
    3: {"train": ["{one}; {two}; {three}"], "dev": ["{one} {two} {three}"], "test": ["i {one} ii {two} iii {three}"]},
}
CONFIG = CombinedConfig.model_validate(
    {
        "sizes": {2: 1.0},
        "frames": FRAMES,
        "tasks": {
            "asr": {"kind": "transcription", "intro": "Text:", "phrases": WORDS},
            "translation": {
                "kind": "translation",
                "intro": "In {target_language}:",
                "phrases": {
                    "train": ["say {target_language}"],
                    "dev": ["d"],
                    "test": ["{target_language} please"],
                },
            },
            "question": {
                "kind": "question",
                "intro": "Answer:",
                "heard": False,
                "phrases": {"train": ["not heard: {question}"], "dev": ["d {question}"], "test": ["aside: {question}"]},
            },
            "mood": {"kind": "label", "intro": "Mood:", "labels": ["sad", "glad"], "phrases": {**WORDS, "dev": ["m"]}},
        },
        "chains": {
            "both": [
                {"task": "asr"},
                {
                    "task": "translation",
                    "phrases": {"train": ["and that"], "dev": ["d"], "test": ["that too"]},
                },
                {"intro": "Again:", "phrases": {"train": ["again"], "dev": ["d"], "test": ["once more"]}},
            ]
        },
    }
)


def row(task: str, answer: str, *, path: str | None = "a.wav", asked: str = "?", **extra: str) -> Conversation:
    said = AudioPart(path, transcript="hello") if path else asked
    return Conversation((user(said), assistant(answer)), id=f"{task} {path}", task=task, extra=extra)


def rows(path: str = "a.wav") -> list[Conversation]:
    return [
        row("asr", "hello", path=path),
        row("translation", "hallo", path=path, target_language="de"),
        row("mood", "sad", path=path),
        row("question", "four", path=None, asked="what is two and two?"),
    ]


def many(num: int) -> list[Conversation]:
    return [each for i in range(num) for each in rows(f"{i}.wav")]


def test_a_chain_of_three_reads_as_written_by_hand_with_steps_and_without() -> None:
    steps, direct = Combiner(rows()[:2], CONFIG, split="test").chained()
    clip = AudioPart("a.wav", transcript="hello")
    assert steps.messages == (
        user("i pen ii that too iii once more", clip),
        assistant("Text: hello\nIn German: hallo\nAgain: hallo"),
    )
    assert steps.extra["instructions"] == [
        {"kind": "transcription", "intro": "Text:", "reference": "hello"},
        {"kind": "translation", "intro": "In German:", "reference": "hallo", "language": "de"},
        {"kind": "translation", "intro": "Again:", "reference": "hallo", "language": "de"},
    ]
    assert direct.messages == (user("one: German please", clip), assistant("In German: hallo"))
    assert [each.extra["form"] for each in (steps, direct)] == ["chain_of_thought", "direct"]
    assert steps.extra["pair"] == direct.extra["pair"]
    assert steps.extra["final"] == direct.extra["final"] == "hallo"
    assert steps.task == direct.task == "combined_chained"


def test_two_tasks_in_training_words_read_as_written_by_hand() -> None:
    only = CONFIG.model_copy(update={"sizes": {2: 1.0}})
    made = Combiner([rows()[0], rows()[3]], only, split="train", seed=1).independent(unseen=False, per_recording=20)
    texts = {(each.messages[0].text, each.reference) for each in made}
    both = {
        ("first write; then not heard: what is two and two?", "Text: hello\nAnswer: four"),
        ("first not heard: what is two and two? then write.", "Answer: four\nText: hello"),
    }
    assert texts <= both
    allowed = [names for names in permutations(["asr", "question"]) if split_of_combination(names) == "train"]
    assert len(texts) == len(allowed)


def test_the_same_seed_gives_the_same_rows_wherever_the_recordings_lie() -> None:
    here, there = many(20), [each.with_root("/elsewhere") for each in many(20)]

    def made(source: list[Conversation], seed: int) -> list[tuple[str, str]]:
        combiner = Combiner(source, CONFIG, split="test", seed=seed)
        return [(each.messages[0].text, each.reference) for each in combiner.independent(unseen=True)]

    assert made(here, 0) == made(there, 0)
    assert made(here, 0) != made(here, 1)


def test_orders_that_are_held_out_are_asked_in_their_split_only() -> None:
    asked: tuple[tuple[Split, bool], ...] = (("train", False), ("test", False), ("test", True))
    orders = {
        (split, unseen): {
            tuple(each.extra["combination"])
            for each in Combiner(many(60), CONFIG, split=split, seed=3).independent(unseen=unseen)
        }
        for split, unseen in asked
    }
    assert orders["train", False]
    assert orders["test", True]
    assert orders["test", False] <= set(permutations(CONFIG.tasks, 2))
    assert not orders["test", True] & (orders["train", False] | orders["test", False])
    assert all(split_of_combination(each) == "test" for each in orders["test", True])
    assert split_of_combination(["anything"]) == "train"
    with pytest.raises(ConfigError, match="training has no unseen combinations"):
        list(Combiner(rows(), CONFIG, split="train").independent(unseen=True))


def test_about_a_sixteenth_and_an_eighth_of_all_orders_are_held_out() -> None:
    splits = [split_of_combination(each) for each in permutations("abcdefgh", 4)]
    assert splits.count("dev") / len(splits) == pytest.approx(1 / 16, abs=0.02)
    assert splits.count("test") / len(splits) == pytest.approx(1 / 8, abs=0.02)


def test_an_answer_can_be_cut_into_its_parts_again() -> None:
    for each in Combiner(many(40), CONFIG, split="train").independent(unseen=False):
        parts = [f"{part['intro']} {part['reference']}" for part in each.extra["instructions"]]
        assert each.reference.split("\n") == parts
        assert len(parts) == len(each.extra["combination"]) == 2
        assert len(each.audio_parts) == 1


def test_wordings_of_a_frame_are_asked_equally_often_and_named() -> None:
    several = {**FRAMES, 2: {**FRAMES[2], "train": ["a {one} {two}", "b {one} {two}", "c {one} {two}"]}}
    config = CombinedConfig.model_validate({**CONFIG.model_dump(), "frames": several})
    made = list(Combiner(many(30), config, split="train").independent(unseen=False))
    names = [each.extra["wording"] for each in made]
    assert {name: names.count(name) for name in set(names)} == {"train 1": 10, "train 2": 10, "train 3": 10}
    assert all(each.messages[0].text[0] == "abc"[int(each.extra["wording"][-1]) - 1] for each in made)


def test_rows_that_cannot_be_combined_are_told_with_their_reasons() -> None:
    two_clips = Conversation((user(AudioPart("a.wav"), AudioPart("b.wav")), assistant("x")), task="asr")
    two_turns = Conversation((*rows()[0].messages, *rows()[0].messages), task="asr")
    odd = [
        *(two_clips, two_turns, row("weather", "rain"), row("asr", "x", path=None), row("question", "x")),
        replace(rows()[0], messages=rows()[0].messages[:1]),
    ]
    combiner = Combiner([*rows(), *odd], CONFIG, split="train")
    assert [dropped.reason for dropped in combiner.dropped] == [
        "more than one recording",
        "not one question and one answer",
        "no sub-task 'weather' in the settings",
        "no recording",
        "a recording where none is heard",
        "not one question and one answer",
    ]
    with pytest.raises(ConfigError, match="no row with a recording can be combined: there are no rows"):
        Combiner([], CONFIG, split="train")


def test_an_answer_that_holds_an_intro_is_left_out_and_told() -> None:
    combiner = Combiner([row("asr", "his answer: no"), rows()[3]], CONFIG, split="train")
    assert list(combiner.independent(unseen=False)) == []
    assert [dropped.reason for dropped in combiner.dropped] == ["an answer holds the words of an intro"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": {5: 1.0}}, "5 sub-instructions in one row: a row has 1 to 4"),
        ({"sizes": {4: 1.0}}, "none for 4 sub-instructions; write frames.4"),
        ({"frames": {**FRAMES, 2: {**WORDS}}}, "lacks one of one, two"),
        ({"chains": {"c": [{"task": "song"}]}}, "no task 'song'; tasks are asr"),
        ({"chains": {"c": [{"intro": "Again:"}]}}, "a step without a task repeats"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    config = CombinedConfig.model_validate({**CONFIG.model_dump(), **change})
    with pytest.raises(ConfigError, match=message):
        Combiner(rows(), config, split="train")


@pytest.mark.parametrize("name", ["best", "tiny"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_shipped_presets_can_ask_for_everything_they_name(name: str, split: str) -> None:
    config = load_combined(name)
    fields = {"target_language": "de", "question": "who is it?"}
    clips = [
        row(task, how.labels[0] if how.labels else f"x{i}", path=f"{i}.wav", **fields)
        for i in range(120)
        for task, how in config.tasks.items()
        if how.heard
    ]
    asides = [row(task, "four", path=None, **fields) for task, how in config.tasks.items() if not how.heard]
    combiner = Combiner([*clips, *asides], config, split=split)  # type: ignore[arg-type]
    made = [*combiner.independent(unseen=split == "test"), *combiner.chained()]
    assert {task for each in made for task in each.extra["combination"]} - {"again"} == set(config.tasks)
    assert {each.extra["chain"] for each in made if "chain" in each.extra} == set(config.chains)
    assert all(isinstance(part, (TextPart, AudioPart)) for each in made for part in each.messages[0].parts)
    assert not any("{" in each.messages[0].text for each in made)


def test_a_label_without_labels_is_refused_by_its_name_in_the_settings() -> None:
    tasks = {**CONFIG.model_dump()["tasks"], "mood": {"kind": "label", "intro": "Mood:", "phrases": WORDS}}
    combiner = Combiner(rows(), CombinedConfig.model_validate({**CONFIG.model_dump(), "tasks": tasks}), split="train")
    with pytest.raises(ConfigError, match=r"tasks.mood, row 'mood a.wav'.*kind 'label' has 0"):
        list(combiner.independent(unseen=False, per_recording=50))


def test_at_least_ten_frames_of_every_size_are_held_out() -> None:
    for name in ("best", "tiny"):
        for size, wordings in load_combined(name).frames.items():
            assert len(wordings.test) >= 10, (name, size)
            assert all(fill(text, one="1", two="2", three="3", four="4") for text in wordings.test)


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no preset 'wavllm' for combined; presets are best, tiny"):
        load_combined("wavllm")
