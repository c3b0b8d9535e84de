import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.importer import KINDS
from sonant.data.manifest import write
from sonant.data.prompts import load_prompt_bank
from sonant.errors import ConfigError, EvaluationError
from sonant.evaluate.arms import Examinee
from sonant.evaluate.run import TaskResult, run_sets
from sonant.evaluate.suite import Place, Suite, load_suite, prepare, shipped_suites
from sonant.evaluate.tasks import task_named
from sonant.generate.assistant import Reply
from sonant.generate.chat_model import ChatAnswer


class Scripted:
    """Says to every recording what the script says about its transcript; reads nothing."""

    def __init__(self, script: Mapping[Any, str]) -> None:
        self.script = script

    def replies(self, prompts: list[Conversation], *, lora: bool, progress: Any, **_: Any) -> list[Reply]:
        said = [p.audio_parts[-1].transcript if p.audio_parts else "" for p in prompts]
        return [Reply(self.script.get(text, ""), (), True) for text in said]


class Kind:
    name = "kind"

    def complete(self, requests: Sequence[Any], *, progress: Any = None) -> list[ChatAnswer]:
        return [ChatAnswer('{"reason": "", "score": 5}') for _ in requests]


Tone = Callable[..., Path]


@pytest.fixture(scope="module")
def tone() -> Tone:
    """Writes half a second (or `duration_s`) of a tone, in the format that the name says."""

    def write_tone(path: Path, *, duration_s: float = 0.5) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.sin(np.arange(round(16_000 * duration_s)) / 9).astype(np.float32), 16000)
        return path

    return write_tone


def results(suite: str, root: Path, script: Mapping[Any, str], **options: Any) -> dict[str, TaskResult]:
    place = Place(root, root / "imported", **{"skip_missing": True, **options})
    prepared = prepare(suite, place, paraphrases=2)
    examinee = Examinee(Scripted(script))  # type: ignore[arg-type]
    return run_sets(prepared.sets, examinee, root / "out", judge_model=Kind())


def values(result: TaskResult) -> dict[str, float]:
    """Metric -> what the model scores."""
    return {metric: round(arms["system"].value, 1) for metric, arms in result.scores.items()}


def table(root: Path, name: str, rows: list[dict[str, Any]], clip: Path) -> None:
    """Parquet with a recording in every row, as the Hub has it."""
    sound = {"bytes": clip.read_bytes(), "path": None}
    audio = "context" if "instruction" in rows[0] else "audio"
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([{audio: sound, **row} for row in rows]), path)


def test_every_shipped_suite_can_be_read_and_names_what_exists() -> None:
    assert shipped_suites() == [
        "covost2", "fleurs", "librispeech", "llama_questions", "spectron", "spoken_squad", "tiny", "tiny_spectron",
        "tiny_wavllm", "voicebench",
    ]  # fmt: skip
    for name in shipped_suites():
        for each in load_suite(name).sets.values():
            assert each.how(task_named(each.task or ""), judged=True)
            assert each.source is None or each.source.kind in KINDS
            assert each.prompts is None or load_prompt_bank(each.prompts)


def test_librispeech_is_asked_in_unseen_and_seen_wordings(tmp_path: Path, tone: Tone) -> None:
    chapter = tmp_path / "LibriSpeech/test-clean/61/70968"
    tone(chapter / "61-70968-0000.flac")
    (chapter / "61-70968.trans.txt").write_text("61-70968-0000 HE CAN'T COLOUR IT\n")
    found = results("librispeech", tmp_path, {"he can't colour it": "He can't color it."})
    assert list(found) == ["librispeech/test-clean"]  # test-other is not there
    result = found["librispeech/test-clean"]
    assert values(result) == {"wer": 0.0, "cer": 0.0}  # by Whisper's normaliser
    assert result.paraphrases
    assert result.paraphrases.test.wordings == load_prompt_bank("asr").of("test")[:2]
    assert result.pins["source"]["kept"] == 1
    assert result.pins["normalizer"]["version"].startswith("whisper-normalizer ")


def test_fleurs_is_transcribed_and_translated(tmp_path: Path, tone: Tone) -> None:
    for language, text in (("de_de", "Guten Tag."), ("en_us", "Good day.")):
        tone(tmp_path / f"fleurs/{language}/audio/test/{language}1.wav")
        row = ("1", f"{language}1.wav", text, text.lower(), "g", "8000", "FEMALE")
        (tmp_path / f"fleurs/{language}/test.tsv").write_text("\t".join(row) + "\n")
    found = results("fleurs", tmp_path, {"Guten Tag.": "guten tag", "Good day.": "Good day."})
    assert list(found) == ["fleurs/asr-en_us", "fleurs/asr-de_de", "fleurs/de_de-en_us", "fleurs/en_us-de_de"]
    assert values(found["fleurs/asr-de_de"]) == {"wer@whisper_basic": 0.0, "wer@none": 100.0}
    assert found["fleurs/asr-de_de"].pins["metric_normalizers"].keys() == {"whisper_basic", "none"}
    prompt = json.loads((tmp_path / "out/items.jsonl").read_text().splitlines()[-1])["prompt"]
    assert "German" in prompt
    assert "tok:13a" in found["fleurs/en_us-de_de"].pins["signatures"]["bleu"]


def test_covost2_counts_japanese_in_characters(tmp_path: Path, tone: Tone) -> None:
    folder = tmp_path / "cv-corpus-4/en"
    tone(folder / "clips/one.mp3")
    text = "path\tsentence\ttranslation\tclient_id\none.mp3\tgood day\tこんにちは世界\tann\n"
    (folder / "covost_v2.en_ja.test.tsv").write_text(text)
    found = results("covost2", tmp_path, {"good day": "こんにちは世界"})
    assert values(found["covost2/en-ja"])["bleu"] == 100.0
    assert "tok:char" in found["covost2/en-ja"].pins["signatures"]["bleu"]
    assert found["covost2/en-ja"].pins["metrics"] == ["bleu:char", "chrf"]


def test_spoken_squad_is_scored_as_squad(tmp_path: Path, tone: Tone) -> None:
    rows = [{"instruction": "Who was it?", "answer": "The Denver Broncos"}]
    table(tmp_path, "spoken_squad_test/data/test-00000-of-00001.parquet", rows, tone(tmp_path / "a.wav"))
    found = results("spoken_squad", tmp_path, {None: "the Broncos"})
    assert values(found["spoken_squad/test"]) == {"f1": 66.7, "exact_match": 0.0, "contains": 0.0}


def test_llama_questions_are_matched_strictly_and_leniently_with_aliases(tmp_path: Path, tone: Tone) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "capital of france?", "answer": "Paris", "aliases": None},
        {"question": "author of hamlet?", "answer": "William Shakespeare", "aliases": ["Shakespeare"]},
    ]
    table(tmp_path, "llama-questions/data/test-00000-of-00001.parquet", rows, tone(tmp_path / "a.wav"))
    script = {"capital of france?": "It is Paris.", "author of hamlet?": "Shakespeare"}
    found = values(results("llama_questions", tmp_path, script)["llama_questions/test"])
    assert (found["contains"], found["exact_match"]) == (100.0, 50.0)


def test_llama_questions_are_read_as_they_are_released_and_heard_whole(tmp_path: Path, tone: Tone) -> None:
    """A table with columns Questions, Answer, Wav Filename beside 1.wav ...; one question is longer than 3 s."""
    folder = tmp_path / "LLAMA1-Test-Set"
    tone(folder / "1.wav")
    tone(folder / "2.wav", duration_s=5.46)
    table = "Questions,Answer,Wav Filename\nWho wrote Hamlet?,William Shakespeare,1.wav\nHow many?,Eleven,2.wav\n"
    (folder / "llama_questions.csv").write_text(table)
    prepared = prepare("spectron", Place(tmp_path, tmp_path / "i", only="llama*"))
    (each,) = prepared.sets
    assert each.speak
    assert [part.duration_s for row in each.rows for part in row.heard_parts] == [None, None]
    script = {"Who wrote Hamlet?": "Shakespeare", "How many?": "11"}
    found = values(run_sets([each], Examinee(Scripted(script)), tmp_path / "out")["spectron/llama_questions"])  # type: ignore[arg-type]
    assert (found["qa_strict"], found["qa_lenient"]) == (0.0, 100.0)


def test_librispeech_is_continued_after_its_first_seconds(tmp_path: Path, tone: Tone) -> None:
    chapter = tmp_path / "LibriSpeech/test-clean/61/70968"
    for number, duration_s in enumerate((2.0, 5.0, 12.0)):
        tone(chapter / f"61-70968-000{number}.flac", duration_s=duration_s)
    (chapter / "61-70968.trans.txt").write_text("".join(f"61-70968-000{n} HE HOPED\n" for n in range(3)))
    short, long = prepare("spectron", Place(tmp_path, tmp_path / "i", only="cont*")).sets
    assert [row.heard_parts[0].duration_s for row in (*short.rows, *long.rows)] == [3.0, 3.0, 10.0]
    assert (short.pins["too_short"], long.pins["too_short"]) == (1, 2)
    assert [truth.clip and truth.clip.offset_s for truth in long.truths] == [10.0]
    assert short.speak


def test_voicebench_is_judged_and_unclear_choices_are_counted(tmp_path: Path, tone: Tone) -> None:
    clip = tone(tmp_path / "a.wav")
    table(tmp_path, "voicebench/alpacaeval/test-00000-of-00001.parquet", [{"prompt": "tell a joke"}], clip)
    choices = [{"prompt": f"question {letter}", "reference": letter} for letter in "ABCD"]
    table(tmp_path, "voicebench/mmsu/law-00000-of-00001.parquet", choices, clip)
    script = {"question A": "A", "question B": "The answer is B.", "question C": "A or C", "question D": "no idea"}
    found = results("voicebench", tmp_path, script)
    assert values(found["voicebench/alpacaeval"]) == {"judge": 100.0, "judge_failed": 0.0}
    assert values(found["voicebench/mmsu"]) == {"accuracy": 50.0, "no_choice": 50.0}
    unjudged = prepare("voicebench", Place(tmp_path, tmp_path / "i", skip_missing=True, judged=False))
    assert unjudged.skipped["alpacaeval"] == "only a judge can score it"


def tiny_world(root: Path) -> None:
    row = Conversation((user("repeat:", AudioPart("a.wav", transcript="red")), assistant("red")), id="1", task="asr")
    write(root / "test/asr.jsonl", [row])
    text = Conversation((user("red"), assistant("red")), id="1", task="text_repeat")
    write(root / "test/text_only.jsonl", [text])


def test_a_set_without_a_task_is_taken_apart_by_the_tasks_of_its_rows(tmp_path: Path) -> None:
    tiny_world(tmp_path)
    assert list(results("tiny", tmp_path, {})) == ["tiny/asr", "tiny/text_only/text_repeat"]


def test_a_missing_set_is_an_error_unless_missing_ones_are_skipped_and_then_it_is_listed(tmp_path: Path) -> None:
    tiny_world(tmp_path)
    with pytest.raises(EvaluationError, match=r"set 'asr_words' cannot be read: .*asr_words\.jsonl.*--skip-missing"):
        prepare("tiny", Place(tmp_path, tmp_path / "i"))
    prepared = prepare("tiny", Place(tmp_path, tmp_path / "i", skip_missing=True))
    assert list(prepared.skipped) == [
        "asr_words", "translation", "spoken_qa", "spoken_qa_heldout", "mixed_modal", "multi_turn",
    ]  # fmt: skip
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        prepare("librispeech", Place(tmp_path, tmp_path / "i", skip_missing=True))


def test_sets_are_chosen_by_name_and_limited(tmp_path: Path) -> None:
    tiny_world(tmp_path)
    prepared = prepare("tiny", Place(tmp_path, tmp_path / "i", only="as?"), limit=1)
    assert [each.name for each in prepared.sets] == ["tiny/asr"]
    with pytest.raises(EvaluationError, match="no set is called 'none'"):
        prepare("tiny", Place(tmp_path, tmp_path / "i", only="none"))


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    tiny_world(tmp_path)
    (tmp_path / "my.yaml").write_text(
        "sets: {mine: {manifest: test/asr.jsonl, task: asr, metrics: [cer, 'wer@squad']}}"
    )
    assert list(results(str(tmp_path / "my.yaml"), tmp_path, {})["my/mine"].scores) == ["cer", "wer@squad"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sets": {}}, "sets"),
        ({"sets": {"a": {"task": "asr"}}}, "either a source or a manifest"),
        ({"sets": {"a": {"source": {"kind": "csv", "path": "a"}}}}, "a source needs a task"),
        ({"sets": {"a": {"manifest": "a", "metric": "wer"}}}, "did you mean 'metrics'"),
    ],
)
def test_a_mistake_in_a_suite_is_told(tmp_path: Path, values: Any, told: str) -> None:
    (tmp_path / "my.yaml").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=told):
        load_suite(str(tmp_path / "my.yaml"))


def test_an_unknown_suite_or_metric_is_told() -> None:
    with pytest.raises(EvaluationError, match="shipped are covost2"):
        load_suite("none")
    suite = Suite.model_validate({"sets": {"a": {"manifest": "a", "metrics": ["weer"]}}})
    with pytest.raises(EvaluationError, match="no metric 'weer'"):
        suite.sets["a"].how(task_named("asr"), judged=True)
