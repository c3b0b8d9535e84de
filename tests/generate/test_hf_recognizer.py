"""Random recognisers of Hugging Face, against transformers' own pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tokenizers
import torch
import transformers

from sonant.chat.messages import AudioPart
from sonant.errors import ModelError
from sonant.generate.hf_recognizer import HFCTCRecognizer, WhisperRecognizer, load_recognizer
from sonant.generate.recognizer import CTCRecognizer
from sonant.models.parts import quiet_transformers

LETTERS = "abcdefghijklmnop"
NAMES = ("endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "nospeech", "notimestamps")
SPECIAL = [f"<|{name}|>" for name in NAMES]
END, START, EN, DE, TRANSLATE, TRANSCRIBE, _, NO_TIMESTAMPS = range(len(LETTERS), len(LETTERS) + len(SPECIAL))
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WAVEFORM = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
CTC: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2ForCTC, WAVEFORM),  # its norm is over time
    "hubert": (transformers.HubertConfig, transformers.HubertForCTC, WAVEFORM | LAYER_NORM),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMForCTC, WAVEFORM | LAYER_NORM),
    "wav2vec2-bert": (
        transformers.Wav2Vec2BertConfig,
        transformers.Wav2Vec2BertForCTC,
        {"feature_projection_input_dim": 160},
    ),
    "parakeet_ctc": (transformers.ParakeetCTCConfig, transformers.ParakeetForCTC, {}),
}
EXTRACTORS = {
    "wav2vec2-bert": transformers.SeamlessM4TFeatureExtractor,
    "parakeet_ctc": transformers.ParakeetFeatureExtractor,
}


def save_whisper(folder: Path, **generation: Any) -> Path:
    """A Whisper whose windows are one second."""
    torch.manual_seed(0)
    tokenizer = transformers.WhisperTokenizer(
        vocab={token: id for id, token in enumerate([*LETTERS, *SPECIAL])}, merges=[], unk_token=SPECIAL[0]
    )
    tokenizer.add_tokens([transformers.AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(51)])
    ends = {"pad_token_id": END, "bos_token_id": END, "eos_token_id": END, "decoder_start_token_id": START}
    sizes = {"d_model": 32, "max_source_positions": 50, "max_target_positions": 16, "vocab_size": len(tokenizer)}
    layers = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 64))}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = transformers.WhisperConfig(**ends, **sizes, **layers, **heads, init_std=0.5)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        **ends, max_length=16, suppress_tokens=[*range(START, NO_TIMESTAMPS + 1)], **generation
    )
    save(folder, model, tokenizer, transformers.WhisperFeatureExtractor(chunk_length=1))
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(
        tmp_path_factory.mktemp("whisper"),
        is_multilingual=True,
        lang_to_id={"<|en|>": EN, "<|de|>": DE},
        task_to_id={"translate": TRANSLATE, "transcribe": TRANSCRIBE},
        no_timestamps_token_id=NO_TIMESTAMPS,
        max_initial_timestamp_index=50,
    )


def save_ctc(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    config_class, model_class, settings = CTC[kind]
    vocab = {token: id for id, token in enumerate([*LETTERS, "|", "<pad>"])}
    ends = {"vocab_size": len(vocab), "pad_token_id": vocab["<pad>"]}
    if kind == "parakeet_ctc":
        config = config_class(encoder_config={**SMALL, "subsampling_conv_channels": 8}, **ends)
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<pad>"))
        words.decoder = tokenizers.decoders.Fuse()
        tokenizer: Any = transformers.ParakeetTokenizer(tokenizer_object=words, pad_token="<pad>")
    else:
        config = config_class(**SMALL, **settings, **ends)
        (folder / "vocab.json").write_text(json.dumps(vocab))
        tokenizer = transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json", unk_token="<pad>")
    model = model_class(config)
    with torch.no_grad():
        model.get_parameter("ctc_head.weight" if kind == "parakeet_ctc" else "lm_head.weight").normal_()
    save(folder, model, tokenizer, EXTRACTORS.get(kind, transformers.Wav2Vec2FeatureExtractor)())
    return folder


def save(folder: Path, *parts: Any) -> None:
    with quiet_transformers():
        for part in parts:
            part.save_pretrained(folder)


def clip(folder: Path, duration_s: float, *, silent_s: float = 0.0) -> AudioPart:
    """A rising tone in noise, with silence for its last `silent_s`."""
    seconds = np.arange(round(16_000 * duration_s)) / 16_000
    samples = 0.3 * np.sin(3000 * seconds * (1 + seconds)) + 0.05 * np.random.default_rng(0).normal(size=len(seconds))
    samples[len(samples) - round(16_000 * silent_s) :] = 0
    path = folder / f"{duration_s}_{silent_s}.wav"
    soundfile.write(path, samples.astype(np.float32), 16_000)
    return AudioPart(str(path))


def pipeline(recognizer: Any, part: AudioPart, **asked: Any) -> str:
    """What transformers itself writes down."""
    run = transformers.pipeline(
        "automatic-speech-recognition",
        model=recognizer.model,
        tokenizer=recognizer.tokenizer,
        feature_extractor=recognizer.extractor,
    )
    with quiet_transformers():
        text: str = run(soundfile.read(part.source, dtype="float32")[0], **asked)["text"]
    return text.strip()


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of the reference, in the test
@pytest.mark.parametrize("kind", CTC)
def test_a_batch_of_a_ctc_model_reads_as_its_clips_do_in_the_reference(kind: str, tmp_path: Path) -> None:
    recognizer = load_recognizer(str(save_ctc(tmp_path, kind)))
    assert isinstance(recognizer, HFCTCRecognizer)
    clips = [clip(tmp_path, duration_s) for duration_s in (1.3, 0.2, 0.7)]
    done: list[int] = []
    texts = recognizer.transcribe(clips, progress=done.append)
    assert sum(done) == 3
    assert texts == [pipeline(recognizer, part) for part in clips]
    assert len(set(texts)) == len(texts)


def test_a_clip_shorter_than_a_frame_is_followed_by_silence(tmp_path: Path) -> None:
    recognizer = load_recognizer(str(save_ctc(tmp_path, "wav2vec2")))
    assert len(recognizer.transcribe([clip(tmp_path, 0.005)])) == 1


def test_whisper_reads_as_the_reference_whatever_else_is_in_the_batch(whisper: Path, tmp_path: Path) -> None:
    """A clip of several windows is in it."""
    recognizer = load_recognizer(str(whisper))
    assert isinstance(recognizer, WhisperRecognizer)
    clips = [clip(tmp_path, duration_s) for duration_s in (0.9, 2.6, 0.2, 0.5)]
    texts = recognizer.transcribe(clips)
    greedy = {"task": "transcribe", "num_beams": 1}
    assert texts == [pipeline(recognizer, c, generate_kwargs=greedy, return_timestamps=c is clips[1]) for c in clips]
    assert recognizer.transcribe([clips[0], *clips[2:]]) == [texts[0], *texts[2:]]


def test_the_end_of_a_long_clip_is_heard_by_whisper(whisper: Path, tmp_path: Path) -> None:
    first, second = load_recognizer(str(whisper)).transcribe([clip(tmp_path, 2.6), clip(tmp_path, 2.6, silent_s=0.5)])
    assert first != second


def test_whisper_is_told_a_language_or_finds_it_out(whisper: Path, tmp_path: Path) -> None:
    part = clip(tmp_path, 0.6)
    texts = {name: load_recognizer(f"{whisper}{name}").transcribe([part]) for name in ("", "#en", "#de")}
    assert texts["#en"] != texts["#de"]
    assert texts[""] in (texts["#en"], texts["#de"])
    with pytest.raises(ModelError, match="cannot be told the language 'fr'; there is de, en"):
        load_recognizer(f"{whisper}#fr")


def test_a_whisper_of_one_language_is_not_told_any(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path, is_multilingual=False, no_timestamps_token_id=NO_TIMESTAMPS)
    assert len(load_recognizer(str(folder)).transcribe([clip(tmp_path, 0.6)])) == 1
    with pytest.raises(ModelError, match="there is none: it knows but one"):
        load_recognizer(f"{folder}#en")


def test_whisper_without_its_generation_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no generation_config\.json of Whisper"):
        load_recognizer(str(save_whisper(tmp_path)))


def test_the_tiny_encoder_is_one_too() -> None:
    assert isinstance(load_recognizer("tiny/encoder"), CTCRecognizer)


def test_what_cannot_recognise_speech_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="type 'llama' does not recognise speech"):
        load_recognizer("tiny/llm")
    with pytest.raises(ModelError, match="leave #de out"):
        load_recognizer("tiny/encoder#de")
    with pytest.raises(ModelError, match="there is no such folder"):
        load_recognizer(str(tmp_path / "none"))


def test_an_encoder_without_a_head_is_refused(tmp_path: Path) -> None:
    save(tmp_path, transformers.HubertModel(transformers.HubertConfig(**SMALL, **WAVEFORM)))
    with pytest.raises(ModelError, match="lacks 2 weights of HubertForCTC, such as lm_head"):
        load_recognizer(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    save_ctc(tmp_path, "hubert")
    for path in (*tmp_path.glob("tokenizer*"), tmp_path / "vocab.json"):
        path.unlink()
    with pytest.raises(ModelError, match="its feature extractor or tokenizer cannot be loaded"):
        load_recognizer(str(tmp_path))
