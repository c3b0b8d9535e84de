import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from engines import Hum
from llguidance import LLMatcher
from scripted_model import ScriptedModel

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, TextPart, assistant, user
from sonant.cli.synth_spoken_qa import preset_path
from sonant.config import load_config
from sonant.data.manifest import Manifest, write
from sonant.data.shards import Job, merge_build, plan_build, run_build
from sonant.data.sources.base import Dropped
from sonant.errors import ConfigError, RequestError
from sonant.generate.cache import CachedModel
from sonant.generate.chat_model import ChatAnswer, ChatRequest
from sonant.synth.spoken_qa import SpokenQA, SpokenQAConfig, normalised
from sonant.synth.spoken_qa_prompts import Counted, Found, Reply, Same, Written
from sonant.synth.voices import Voices
from sonant.testing import tone

HEARD = "The red fox saw three dogs and two cats."
Respond = Callable[[ChatRequest], str | ChatAnswer]


def recorded(transcript: str | None = HEARD, **changes: object) -> Conversation:
    audio = AudioPart("/corpus/a.flac", duration_s=2.0, transcript=transcript)
    values = {"id": "a", "task": "asr", "language": "en", "speaker": "anna", "extra": {"shard": 3}}
    return Conversation((user("Transcribe:", audio), assistant(HEARD)), **(values | changes))


def settings(preset: str, *overrides: str) -> SpokenQAConfig:
    return load_config(SpokenQAConfig, [preset_path(preset)], overrides=overrides)


def only(kind: str, *overrides: str) -> SpokenQAConfig:
    """The preset `best` with questions of one kind, all in text."""
    weights = dict.fromkeys(("extractive", "inferential", "counting", "unanswerable", "summary", "translation"), 0)
    return settings("best", f"types={json.dumps(weights | {kind: 1})}", "voiced_share=0", *overrides)


def built(
    respond: Respond, config: SpokenQAConfig, *rows: Conversation, tmp_path: Path | None = None
) -> tuple[list[Conversation | Dropped], ScriptedModel]:
    model = ScriptedModel(respond)
    builder = SpokenQA(model, model, config)
    jobs = [Job(i, f"asr.jsonl:{i + 1}", row) for i, row in enumerate(rows or (recorded(),))]
    return list(builder.build(jobs, clips=tmp_path or Path("never"))), model


def script(written: object, found: object = None, same: object = None) -> Respond:
    """A model that writes, answers blindly and compares as told."""

    def respond(request: ChatRequest) -> str:
        keys = set((request.schema or {}).get("properties", {"question": 0}))
        reply = written if "question" in keys else found if "answerable" in keys else same
        assert reply is not None, f"not to be asked for {keys}"
        return reply if isinstance(reply, str) else json.dumps(reply)

    return respond


def found(answer: str, *, answerable: bool = True) -> dict[str, object]:
    return {"answerable": answerable, "answer": answer}


def test_the_published_builder_asks_one_question_in_text_about_the_real_recording() -> None:
    pair = json.dumps({"question": "Who saw the dogs?", "answer": "The red fox."})
    (row,), model = built(lambda _: f" {pair}\n", settings("faithful"))
    assert isinstance(row, Conversation)
    audio = AudioPart("/corpus/a.flac", duration_s=2.0, transcript=HEARD)
    assert row.messages == (user(audio, "Who saw the dogs?"), assistant("The red fox."))
    assert (row.id, row.task, row.language, row.speaker, row.extra["shard"]) == ("a-q0", "spoken_qa", "en", "anna", 3)
    (request,) = model.asked
    assert (request.schema, request.max_new_tokens, request.temperature) == (None, 512, 0.0)
    (message,) = request.messages
    assert message.role == "user"
    assert message.text.endswith(HEARD)
    provenance = row.extra["provenance"]
    assert provenance["transcript_sha256"] == hashlib.sha256(HEARD.encode()).hexdigest()[:16]
    assert provenance["prompt"] in str(SpokenQA(model, model, settings("faithful")).settings["prompts"])
    assert {k: provenance[k] for k in ("model", "question_type", "verifier", "seed", "source")} == {
        "model": "scripted",
        "question_type": "published",
        "verifier": None,
        "seed": 0,
        "source": {"id": "a"},
    }


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ('{"question": "none", "answer": "None"}', "nothing to ask (none)"),
        ('{"question": "who?", "answer": "NONE"}', "nothing to ask (none)"),
        ("Here it is: {}", "reply is no JSON"),
        ('```json\n{"question": "who?", "answer": "he"}\n```', "reply is no JSON"),
        ('{"question": "who?", "answer": "\\ud800"}', "reply is no JSON"),
        ('["who?", "he"]', "reply is no JSON object"),
        ('{"question": "who?"}', "reply lacks 'answer'"),
        ('{"question": "who?", "answer": 3}', "reply has a wrong value for 'answer'"),
        ('{"question": null, "answer": "he"}', "reply has a wrong value for 'question'"),
        ('{"question": "who?", "answer": " "}', "question or answer is empty"),
        (ChatAnswer("", "no answer within 60 s"), "the model failed"),
        (ChatAnswer('{"question": "w', "cut off after 512 tokens"), "the model failed"),
    ],
)
def test_what_crashed_or_skipped_a_batch_is_dropped_alone_with_its_reason(reply: str | ChatAnswer, reason: str) -> None:
    good = '{"question": "who?", "answer": "he"}'
    replies = iter([good, reply, good])
    (before, dropped, after), _ = built(lambda _: next(replies), settings("faithful"), *[recorded()] * 3)
    assert isinstance(before, Conversation)
    assert isinstance(after, Conversation)
    assert isinstance(dropped, Dropped)
    assert (dropped.place, dropped.reason) == ("asr.jsonl:2", reason)
    assert dropped.detail.startswith("published")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (recorded(None, task="translation"), "no transcript"),
        (Conversation((user("no audio"), assistant("a"))), "not one recording"),
        (Conversation((user(AudioPart("a.wav"), AudioPart("b.wav")), assistant("a"))), "not one recording"),
        (Conversation((user(AudioPart("/nowhere/a.wav", transcript="a")),)), "recording cannot be read"),
    ],
)
def test_rows_that_nothing_can_be_asked_about_are_dropped_before_asking(row: Conversation, reason: str) -> None:
    (dropped,), model = built(lambda _: "never", settings("faithful"), row)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason
    assert not model.asked


def test_the_answer_of_an_asr_row_is_a_transcript() -> None:
    (row,), model = built(lambda _: '{"question": "q", "answer": "a"}', settings("faithful"), recorded(None))
    assert isinstance(row, Conversation)
    assert model.asked[0].messages[0].text.endswith(HEARD)


AGREEING = {
    "extractive": ({"question": "Who saw dogs?", "answer": "the red fox"}, found("Red fox."), None),
    "counting": ({"question": "How many cats?", "items": ["cat"] * 2, "answer": 2}, found("two"), None),
    "unanswerable": ({"question": "Where?", "answer": "It is not said."}, found("", answerable=False), None),
    "inferential": ({"question": "More dogs?", "answer": "Yes, three."}, found("yes"), {"equivalent": True}),
    "summary": ({"question": "Sum it up.", "answer": "A fox saw pets."}, found("fox"), {"equivalent": True}),
    "translation": ({"question": "In ...?", "answer": "der Fuchs"}, found("Fuchs"), {"equivalent": True}),
}


@pytest.mark.parametrize("kind", AGREEING)
def test_a_question_whose_blind_answer_agrees_is_kept(kind: str) -> None:
    written, answer, same = AGREEING[kind]
    (row,), model = built(script(written, answer, same), only(kind))
    assert isinstance(row, Conversation)
    assert row.messages[0].text == written["question"]
    assert row.reference == str(written["answer"])
    assert row.extra["question_type"] == kind
    assert row.extra["provenance"]["verifier"] == "scripted"
    assert len(model.asked) == (2 if same is None else 3)
    blind = model.asked[1].messages[0].text
    assert written["question"] in blind
    assert str(written["answer"]) not in blind.replace(HEARD, "")


DISAGREEING = {
    "extractive": (found("three dogs"), None),
    "counting": (found("3"), None),
    "unanswerable": (found("in the woods"), None),
    "inferential": (found("no"), {"equivalent": False}),
    "summary": (found("", answerable=False), None),
    "translation": (found("Hund"), {"equivalent": False}),
}


@pytest.mark.parametrize("kind", DISAGREEING)
def test_a_question_whose_blind_answer_differs_is_dropped(kind: str) -> None:
    written = AGREEING[kind][0]
    (dropped,), _ = built(script(written, *DISAGREEING[kind]), only(kind))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "verifier disagrees"
    assert str(written["answer"]) in dropped.detail


@pytest.mark.parametrize(
    ("kind", "written", "reason"),
    [
        ("extractive", {"question": "Who?", "answer": "the wolf"}, "answer is not in the transcript"),
        ("extractive", {"question": "Who?", "answer": "ox"}, "answer is not in the transcript"),
        ("counting", {"question": "Cats?", "items": ["cat"], "answer": 2}, "count differs from what was counted"),
        ("counting", {"question": "Cats?", "items": ["cat"], "answer": "1"}, "reply has a wrong value for 'answer'"),
    ],
)
def test_what_can_be_seen_to_be_wrong_needs_no_verifier(kind: str, written: dict, reason: str) -> None:
    (dropped,), model = built(script(written), only(kind))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason
    assert len(model.asked) == 1


def test_a_verifier_that_writes_nonsense_is_counted_and_not_believed() -> None:
    (dropped,), _ = built(script(AGREEING["extractive"][0], '{"answerable": "yes"}'), only("extractive"))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "reply has a wrong value for 'answerable'"


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("The red fox.", "red fox", "en"),
        ("3", "three", "en"),
        ("21 dogs", "twenty-one dogs", "en"),
        ("Der Fuchs", "fuchs", "de"),
        ("12", "zwölf", "de"),
        ("赤い狐", "赤い狐。", "ja"),
    ],
)
def test_answers_are_compared_without_case_articles_and_spelling_of_numbers(
    one: str, other: str, language: str
) -> None:
    assert normalised(one, language=language) == normalised(other, language=language) != ""


def test_the_same_question_about_a_recording_is_asked_once() -> None:
    config = settings("best", "verified=false", "voiced_share=0", "num_questions=2", "types.counting=0")
    reply = '{"question": "Who saw dogs?", "answer": "the red fox"}'
    entries, _ = built(lambda _: reply, config, recorded(), recorded(id="b"))
    assert [type(entry) for entry in entries] == [Conversation, Dropped] * 2
    assert [entry.reason for entry in entries if isinstance(entry, Dropped)] == ["question asked before"] * 2


def test_types_are_mixed_by_weight_and_differ_within_a_recording() -> None:
    config = settings("best", "verified=false", "voiced_share=0", "num_questions=2")
    model = ScriptedModel(lambda _: "never")
    builder = SpokenQA(model, model, config)
    drawn: dict[str, int] = dict.fromkeys(config.types, 0)
    for index in range(600):
        kinds = [
            entry.kind for entry in builder._drawn(Job(index, "m:1", recorded())) if not isinstance(entry, Dropped)
        ]
        assert len(set(kinds)) == 2
        drawn[kinds[0]] += 1
    total = sum(config.types.values())
    for kind, weight in config.types.items():
        assert abs(drawn[kind] / 600 - weight / total) < 0.06


def test_rows_do_not_depend_on_the_order_of_types_in_a_file() -> None:
    config = settings("best", "verified=false", "voiced_share=0")
    turned = config.model_copy(update={"types": dict(reversed(config.types.items()))})
    kinds = []
    for each in (config, turned):
        model = ScriptedModel(lambda _: "never")
        builder = SpokenQA(model, model, each)
        kinds.append([e.kind for i in range(20) for e in builder._drawn(Job(i, "m:1", recorded()))])
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("shape", [Written, Counted, Found, Same])
def test_every_reply_has_a_schema_that_masks_and_strict_endpoints_can_follow(shape: type[Reply]) -> None:
    schema = shape.model_json_schema()
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema))) == ""
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])


def test_a_translation_is_into_another_language_than_the_recordings() -> None:
    written, answer, same = AGREEING["translation"]
    _, model = built(script(written, answer, same), only("translation"), *[recorded(language="de-AT")] * 12)
    prompts = [request.messages[0].text for request in model.asked[:12]]
    assert {name for name in ("English", "German", "French", "Spanish") for p in prompts if name in p} == {
        "English",
        "French",
        "Spanish",
    }


def test_a_transcript_cannot_add_to_the_prompt() -> None:
    (row,), model = built(script(*AGREEING["unanswerable"]), only("unanswerable"), recorded("costs $question $5 {x}"))
    assert isinstance(row, Conversation)
    assert all("costs $question $5 {x}" in request.messages[0].text for request in model.asked)


def test_a_share_of_the_questions_is_spoken(tmp_path: Path) -> None:
    model = ScriptedModel(script(*AGREEING["inferential"]))
    voices = Voices({"en": ("ann", "bob")})
    builder = SpokenQA(model, model, only("inferential", "voiced_share=0.5"), Hum(), voices)
    rows = list(builder.build([Job(i, "m:1", recorded()) for i in range(40)], clips=tmp_path))
    assert all(isinstance(row, Conversation) for row in rows)
    spoken = [row for row in rows if isinstance(row, Conversation) and len(row.audio_parts) == 2]
    assert 10 <= len(spoken) <= 30
    question = spoken[0].audio_parts[1]
    assert question.transcript == "More dogs?"
    assert question.duration_s == pytest.approx(0.1)
    assert not any(isinstance(part, TextPart) for part in spoken[0].messages[0].parts)
    assert {row.extra["provenance"]["voice"] for row in spoken} == {"ann", "bob"}
    assert {row.extra["provenance"]["engine"] for row in spoken} == {"hum"}


def test_a_question_that_nobody_can_speak_is_dropped_before_asking(tmp_path: Path) -> None:
    model = ScriptedModel(lambda _: "never")
    builder = SpokenQA(model, model, only("summary", "voiced_share=1"), Hum(), Voices({"en": ("ann",)}))
    (dropped,) = builder.build([Job(0, "m:1", recorded(language="de"))], clips=tmp_path)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "no voice for language de"
    assert not model.asked


def test_a_model_that_answers_nothing_stops_the_job_instead_of_losing_its_rows() -> None:
    with pytest.raises(RequestError, match="answered none of 8 questions, the first because: down"):
        built(lambda _: ChatAnswer("", "down"), settings("faithful"), *[recorded()] * 8)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="number of types, which is 1"):
        settings("faithful", "num_questions=2")
    with pytest.raises(ConfigError, match="two or more"):
        settings("best", "target_languages=[en]")
    with pytest.raises(ConfigError, match=r"types\.riddle"):
        settings("best", "types.riddle=1")
    with pytest.raises(ConfigError, match="name an engine"):
        built(lambda _: "", settings("best"))


def corpus(folder: Path, num_rows: int) -> Path:
    save(folder / "a.wav", tone(0.3), sample_rate_hz=16_000)
    rows = [
        Conversation((user(AudioPart(str(folder / "a.wav"), transcript=f"{HEARD} {i}")), assistant("x")), id=str(i))
        for i in range(num_rows)
    ]
    write(folder / "asr.jsonl", rows)
    return folder / "asr.jsonl"


def talkative(request: ChatRequest) -> str:
    """Answers by the request alone, and disagrees now and then."""
    seed = sum(request.messages[0].text.encode())
    answer, same = ("fox", seed % 5 > 0) if seed % 7 else ("cats", False)
    items = ["dog"] * 3
    replies = {
        "items": {"question": f"How many {seed}?", "items": items, "answer": 3},
        "question": {"question": f"Who is {seed}?", "answer": "red fox"},
        "answerable": found("red fox" if seed % 3 else answer, answerable=seed % 4 > 0),
        "equivalent": {"equivalent": same},
    }
    keys = (request.schema or {})["properties"]
    return json.dumps(next(reply for key, reply in replies.items() if key in keys))


def make(source: Path, out: Path, respond: Respond = talkative) -> ScriptedModel:
    model = ScriptedModel(respond)
    cached = CachedModel(model, out / "answers")
    config = settings("best", "voiced_share=0.4", "num_questions=2", "seed=5")
    builder = SpokenQA(cached, cached, config, Hum(), Voices({"*": ("ann", "bob")}))
    build = plan_build(builder, source, out, shard_rows=7)
    run_build(builder, build)
    merge_build(build)
    return model


def test_two_runs_with_one_seed_give_identical_manifests(tmp_path: Path) -> None:
    source = corpus(tmp_path, 20)
    for name in ("one", "two"):
        make(source, tmp_path / name)
    for file in ("rows.jsonl", "rows.dropped.jsonl", "report.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    report = json.loads((tmp_path / "one" / "report.json").read_bytes())
    assert report["rows"] + sum(report["dropped"].values()) == 40
    assert report["rows"] >= 5
    assert report["dropped"]["verifier disagrees"] >= 5
    assert len({row.id for row in Manifest(tmp_path / "one" / "rows.jsonl")}) == report["rows"]


def test_killed_and_started_again_nothing_is_asked_twice(tmp_path: Path) -> None:
    source = corpus(tmp_path, 20)
    whole = make(source, tmp_path / "whole")
    asked: list[ChatRequest] = []

    def killed(request: ChatRequest) -> str:
        if len(asked) == 60:
            raise KeyboardInterrupt
        asked.append(request)
        return talkative(request)

    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "killed", killed)
    again = make(source, tmp_path / "killed")
    assert 0 < len(again.asked) < len(whole.asked)
    kept = [request for request in asked if request not in again.asked]
    assert len(kept) >= 60 - 14  # all but the 14 questions that were out: they had no answer yet
    assert (tmp_path / "killed" / "rows.jsonl").read_bytes() == (tmp_path / "whole" / "rows.jsonl").read_bytes()
    assert make(source, tmp_path / "killed").asked == []
