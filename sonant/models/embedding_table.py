"""The embedding table of a language model, without the language model.

folder or hub id ── index ──▶ the shard that holds it ──▶ one tensor (V, D)
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sonant.errors import ModelError
from sonant.models.parts import read_part_config, resolve_part

# How the families of transformers call their input embeddings (Llama and nearly all others, GPT-2, GPT-NeoX, BLOOM).
_INPUTS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_OUTPUTS = ("lm_head.weight",)  # the same tensor where the two are tied
_OTHER_SCALES = ("biogpt", "minicpm3", "xglm")  # they scale embeddings, each in its own way
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def read_embedding_table(path: str) -> Tensor:
    """Returns the vectors (V, D) float32 that the LLM at `path` reads for its token ids, scaled as it scales them.

    path: a folder, a hub id (of which only config, index and one shard are fetched) or a part shipped with Sonant.
    One tensor is read and no layer is built, so time and memory do not depend on the LLM's depth. Gemma multiplies by
    sqrt(D); here in float32, so an LLM that runs in bfloat16 rounds that factor by up to 0.4 %.

    Raises: ModelError, listing what was looked for, if the table cannot be found or read.
    """
    folder = os.path.expanduser(resolve_part(path))
    config = read_part_config(folder)
    model_type = str(config.get("model_type"))
    if model_type in _OTHER_SCALES:
        raise ModelError(f"{path}: how {model_type} scales its embeddings is not known here; choose another LLM")
    shards = _shards(folder)
    name = _table_name(list(shards), path=path, tied=_is_tied(config))
    shard = _fetch(folder, shards[name])
    try:
        with safe_open(shard, framework="pt") as tensors:
            table: Tensor = tensors.get_tensor(name).float()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{shard}: cannot read {name!r} ({error}); fetch the file again") from None
    return table * math.sqrt(table.shape[1]) if "gemma" in model_type else table


def nearest(vectors: Tensor, table: Tensor, *, k: int = 1) -> tuple[Tensor, Tensor]:
    """Returns the cosines (..., k) float32, best first, and ids (..., k) of the rows of `table` nearest to `vectors`.

    Shapes: vectors (..., D), table (V, D), in whose precision they are compared: a large one is not copied.
    By angle, since SpeechMapper's loss hardly bounds the norm of its vectors.
    """
    norms = torch.linalg.vector_norm(table, dim=-1, dtype=torch.float32).clamp(min=1e-12)
    directions = F.normalize(vectors.float(), dim=-1).to(table.dtype)
    found = ((directions @ table.T).float() / norms).topk(k, dim=-1)
    return found.values, found.indices


def pad_vector(table: Tensor, pad_id: int | None = None) -> Tensor:
    """Returns the vector (D,) that means "nothing more is said": the row of a reserved token, or one made for it.

    Made (pad_id None): opposite to the mean of `table` (V, D), as long as a row is on average. Embeddings share a
    direction, so that all tokens are on the other side; and it depends on nothing but the table.
    """
    if pad_id is not None:
        return table[pad_id].detach().clone()
    rows = table.detach().float()
    return (-F.normalize(rows.mean(0), dim=0) * rows.norm(dim=1).mean()).to(table.dtype)


def _shards(folder: str) -> dict[str, str]:
    """The name of every tensor -> the file that holds it."""
    try:
        index = json.loads(Path(_fetch(folder, _INDEX)).read_text(encoding="utf-8"))
        return dict(index["weight_map"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: {_INDEX} cannot be read ({error}); fetch the file again") from None
    try:
        whole = _fetch(folder, _WHOLE)
        with safe_open(whole, framework="pt") as tensors:
            return dict.fromkeys(tensors.keys(), _WHOLE)
    except FileNotFoundError:
        raise ModelError(f"{folder}: has neither {_INDEX} nor {_WHOLE}; give a language model in safetensors") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{whole}: cannot be read ({error}); fetch the file again") from None


def _fetch(folder: str, name: str) -> str:
    """The path of a file of a folder, or of a hub repository, of which it then is the only one fetched.

    Raises: FileNotFoundError if it has no such file.
    """
    if os.path.isdir(folder):
        if not os.path.isfile(file := os.path.join(folder, name)):
            raise FileNotFoundError(file)
        return file
    try:
        return huggingface_hub.hf_hub_download(folder, name)
    except (HfHubHTTPError, ValueError) as error:  # no such entry, or no network and not in the cache
        raise FileNotFoundError(f"{folder}/{name} ({error})") from None


def _table_name(names: list[str], *, path: str, tied: bool) -> str:
    wanted = [_INPUTS, _OUTPUTS] if tied else [_INPUTS]
    for suffixes in wanted:
        found = [name for name in names if name.endswith(suffixes)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelError(f"{path}: several tensors may be the table: {', '.join(found)}; use an LLM alone")
    looked_for = ", ".join(f"*{suffix}" for suffixes in wanted for suffix in suffixes)
    raise ModelError(
        f"{path}: no embedding table; looked for {looked_for} among {len(names)} tensors such as "
        f"{', '.join(sorted(names)[:3])}; give the folder of a causal language model"
    )


def _is_tied(values: dict[str, Any]) -> bool:
    """Whether the output head is the embedding table; where config.json is silent, its family's default decides."""
    if "tie_word_embeddings" in values:
        return bool(values["tie_word_embeddings"])
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    kind = values.get("model_type")
    return bool(known[kind]().tie_word_embeddings) if kind in known else False
