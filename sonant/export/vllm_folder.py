"""A trained model as a folder that vLLM serves with our plugin: that of transformers, and a token where a clip stands.

<|user|>repeat: <|sonant_audio|><|end|>       vLLM puts as many of these tokens as the clip has vectors
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sonant.errors import ModelError
from sonant.export.folder import Exported, new_folder, write_card, write_provenance
from sonant.export.hugging_face import export_hf
from sonant.export.vllm_plugin import ARCHITECTURE, AUDIO, MINOR
from sonant.models.parts import quiet_transformers

_HEAD = {"library_name": "vllm", "pipeline_tag": "audio-text-to-text", "tags": ["sonant", "speech"]}
_USE = (
    f"# where vLLM {MINOR} and Sonant are installed: Sonant's plugin is found by itself",
    "python -m vllm.entrypoints.openai.api_server --model THIS_FOLDER",
)
# The parts of a message become one text before the model's own template sees it. vLLM reads special tokens in that text
# as such, whoever wrote them, so text that spells one is refused.
_JOIN_PARTS = (
    "{%- set joined = namespace(messages=[], text='') -%}"
    "{%- for message in messages -%}{%- set joined.text = '' -%}"
    "{%- if message['content'] is string -%}{{- check(message['content']) -}}"
    "{%- set joined.text = message['content'] -%}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{- check(part['text']) -}}"
    "{%- set joined.text = joined.text + part['text'] -%}{%- else -%}"
    "{%- set joined.text = joined.text + 'AUDIO' -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- set joined.messages = joined.messages + [{'role': message['role'], 'content': joined.text}] -%}{%- endfor -%}"
    "{%- set messages = joined.messages -%}"
)
_CHECK = (
    "{%- macro check(text) -%}{%- for token in SPECIAL -%}{%- if token in text -%}"
    "{{- raise_exception('text may not spell the special token ' ~ token) -}}"
    "{%- endif -%}{%- endfor -%}{%- endmacro -%}"
)


def export_vllm(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Exported:
    """Writes the model saved in `folder` to `out`, LoRA merged; returns what is in there.

    Raises: CheckpointError if `out` is not free or `folder` no checkpoint; ModelError if its LoRA cannot be merged, or
    the LLM knows the audio token already.
    """
    with new_folder(out) as place:
        exported = export_hf(folder, place, merge=True)
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(place)
            _add_audio_token(tokenizer)
            tokenizer.save_pretrained(place)
        audio_token_id = tokenizer.convert_tokens_to_ids(AUDIO)
        _change(place / "config.json", architectures=[ARCHITECTURE], audio_token_id=audio_token_id)
        # To vLLM the one is a limit for everybody, and without the other it samples.
        _change(place / "generation_config.json", max_new_tokens=None, temperature=0.0)
        write_provenance(place, Path(folder).absolute(), to="vllm", merged=True)
        told = replace(exported, folder=place)
        write_card(told, head=_HEAD, title="A speech language model for vLLM", use=_USE, language="text")
    return replace(exported, folder=Path(out).absolute())


def _add_audio_token(tokenizer: Any) -> None:
    if AUDIO in tokenizer.get_vocab():
        raise ModelError(f"the tokenizer has a token {AUDIO} already, which would stand for clips")
    tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO]})
    special = json.dumps(sorted(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special))
    joined = _CHECK.replace("SPECIAL", special) + _JOIN_PARTS.replace("AUDIO", AUDIO)
    tokenizer.chat_template = joined + tokenizer.chat_template


def _change(path: Path, **values: Any) -> None:
    """Sets values of a JSON file; None removes one."""
    kept = {**json.loads(path.read_text(encoding="utf-8")), **values}
    kept = {name: value for name, value in kept.items() if value is not None}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
