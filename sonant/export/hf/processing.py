"""From conversations to the tensors that an exported model reads, by the road of training."""

import base64
import io
import operator
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import BatchFeature, ProcessorMixin

from sonant.errors import ChatError

if TYPE_CHECKING:
    from sonant.chat.messages import Conversation

SAMPLE_RATE_HZ = 16_000  # of an array that comes without its `sampling_rate`


class SonantProcessor(ProcessorMixin):
    """Tokenizer, chat template and the features that the encoders hear.

    tokenizer: a fast tokenizer with a chat template.
    features: `FeatureSpec.to_json` of each kind of features that the model reads, in its order.
    reads_prompt: whether the model reads the written question alone, too (prompt-aware LoRA).
    """

    # No keyword-only arguments: transformers reads the signature by position.
    def __init__(
        self,
        tokenizer: Any = None,
        features: Sequence[Mapping[str, Any]] = (),
        reads_prompt: bool = False,
        chat_template: str | None = None,
    ) -> None:
        from sonant.audio.features import FeatureSpec
        from sonant.chat.tokenizer import ChatTokenizer

        super().__init__(tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.features, self.reads_prompt = [dict(spec) for spec in features], reads_prompt
        self.specs = [FeatureSpec.from_json(spec) for spec in self.features]
        self.chat_tokenizer = ChatTokenizer(tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Returns the processor in a folder, as transformers does; code that came along never runs."""
        return super().from_pretrained(pretrained_model_name_or_path, **{**kwargs, "trust_remote_code": False})

    def __call__(self, conversations: Any, *, return_tensors: str = "pt") -> BatchFeature:
        """Returns the tensors (`sonant.export.hf.inputs`) of one question, or of several as the rows of a batch.

        conversations: a question, or a list of them: a list of messages as transformers writes them, a row of a
            manifest, or a `Conversation`. Their parts are `{"type": "text", "text": ...}` and `{"type": "audio",
            "audio": ...}` with an array (S,) at 16 kHz or at its "sampling_rate", or with the name of a file.

        Raises: ChatError or AudioError, saying which message or recording.
        """
        from sonant.batch import collate, make_example
        from sonant.export.hf.inputs import as_inputs

        if return_tensors != "pt":
            raise ChatError(f"return_tensors={return_tensors!r}: this processor makes PyTorch tensors only; give 'pt'")
        rows = [
            make_example(question, self.chat_tokenizer, self.specs, for_generation=True)
            for question in _conversations(conversations)
        ]
        inputs = as_inputs(collate(rows), self.specs, pad_id=self.chat_tokenizer.pad_id, reads_prompt=self.reads_prompt)
        return BatchFeature(inputs)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Returns `self(conversation)`: the template is run with a sentinel for every message (`sonant.chat.template`).

        Raises: ChatError if anything is asked for that would give another prompt, or text in which a clip has no place.
        """
        allowed = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
        wrong = [f"{key}={value!r}" for key, value in kwargs.items() if allowed.get(key) != value]
        if args or wrong or not kwargs.get("tokenize") or not kwargs.get("return_dict"):
            raise ChatError(
                f"apply_chat_template({', '.join([*map(repr, args), *wrong])}): a clip is a place between tokens, "
                "which no text can show; call it with tokenize=True, return_dict=True and no other setting, or call "
                "processor(conversation)"
            )
        return self(conversation)

    @property
    def model_input_names(self) -> list[str]:
        """The names of all tensors that this processor may return."""
        from sonant.export.hf.inputs import NAMES

        return list(NAMES)


def _conversations(given: Any) -> list["Conversation"]:
    """One question or several, each in any form."""
    from sonant.chat.messages import Conversation

    if isinstance(given, Mapping | Conversation):
        return [_conversation(given)]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
        raise ChatError(f"{type(given).__name__} {given!r:.60}: give a conversation, or a list of conversations")
    is_one = all(isinstance(item, Mapping) and "role" in item for item in given)
    return [_conversation(given)] if is_one else [_conversation(item) for item in given]


def _conversation(given: Any) -> "Conversation":
    from sonant.chat.messages import Conversation

    if isinstance(given, Conversation):
        return given
    row = given if isinstance(given, Mapping) else {"messages": given}
    messages = row.get("messages")
    if isinstance(messages, Sequence):
        row = {**row, "messages": [_plain_message(message) for message in messages]}
    return Conversation.from_json(row)


def _plain_message(message: Any) -> Any:
    """A message as a manifest writes it; what is not understood stays, for `Conversation.from_json` to complain of."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple):
        return message
    return {**message, "content": [_plain_part(part) for part in content]}


def _plain_part(part: Any) -> Any:
    """`{"type": "audio", "audio": array, file name, or both rate and array}` as a part with `data` or `path`."""
    if not isinstance(part, Mapping) or part.get("type") != "audio" or "audio" not in part:
        return part
    rest = {key: value for key, value in part.items() if key not in ("audio", "sampling_rate")}
    audio, rate_hz = part["audio"], part.get("sampling_rate", SAMPLE_RATE_HZ)
    if isinstance(audio, str | os.PathLike):
        return {**rest, "path": os.fspath(audio)}
    if isinstance(audio, Mapping) and "array" in audio:  # as Hugging Face datasets give it
        audio, rate_hz = audio["array"], audio.get("sampling_rate", rate_hz)
    return {**rest, "data": _wav(audio, _rate_hz(rate_hz))}


def _rate_hz(given: Any) -> int:
    """A sampling rate as people have it: a whole number of any type."""
    try:
        rate_hz = operator.index(int(given) if isinstance(given, float) and given.is_integer() else given)
    except TypeError:
        rate_hz = 0
    if not 0 < rate_hz < 2**31:
        raise ChatError(f"sampling_rate is {given!r}; give samples a second, a whole number above 0")
    return rate_hz


def _wav(samples: Any, sample_rate_hz: int) -> str:
    """Samples (S,) as base64 of a float WAV, which `sonant.audio.io.load` reads back exactly."""
    import numpy as np
    import soundfile

    try:
        array, buffer = np.asarray(samples), io.BytesIO()
    except ValueError as error:
        raise ChatError(f"the samples of an audio part make no array ({error})") from None
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "fiu":
        raise ChatError(
            f"an audio part holds {array.dtype} of shape {array.shape}; give a file name, or real samples (S,), one or "
            "more"
        )
    array = array.astype(np.float32)
    soundfile.write(buffer, array, sample_rate_hz, format="WAV", subtype="FLOAT")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
