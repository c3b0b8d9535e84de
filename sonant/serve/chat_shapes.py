"""OpenAI's chat completions: what is asked, and what is answered, whole and in chunks.

A field of OpenAI's that this server does not support is here with the values that change nothing; any other is refused.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from sonant.config import Config
from sonant.serve.answering.questions import Reason, TokenScore
from sonant.serve.conversations import AnyMessage, Words

Modality: TypeAlias = Literal["text", "audio"]
Probability: TypeAlias = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Temperature: TypeAlias = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Seed: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Zero: TypeAlias = Annotated[float, Field(ge=0, le=0)]


class AudioAsked(Config):
    """In which voice an answer is said, and how its sound is written."""

    voice: str
    format: Literal["wav", "mp3", "flac", "opus", "pcm16"]


class StreamOptions(Config):
    """What a stream tells besides the answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class TextFormat(Config):
    """The one form of answers."""

    type: Literal["text"]


class ChatRequest(Config):
    """A chat completion as it is asked for."""

    model: str
    messages: tuple[AnyMessage, ...]
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] | None = None
    audio: AudioAsked | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None  # None: greedy
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None  # not OpenAI's, as vLLM has it
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10, allow_inf_nan=False)] | None = None  # likewise
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Words | tuple[Words, ...] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    # Names for whoever reads the operator's books. They change no answer, and are not kept.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    # What OpenAI has and this server does not: only what changes nothing is taken.
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    response_format: TextFormat | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    verbosity: Literal["medium"] | None = None
    parallel_tool_calls: bool | None = None  # of no tools
    tool_choice: Literal["none", "auto"] | None = None
    tools: None = None
    functions: None = None
    function_call: Literal["none", "auto"] | None = None
    logit_bias: None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    reasoning_effort: None = None
    web_search_options: None = None


class Logprob(Config):
    """A token and how likely it was."""

    token: str
    bytes: tuple[int, ...]
    logprob: float

    @classmethod
    def of(cls, score: TokenScore) -> "Logprob":
        """Returns the score as OpenAI writes it."""
        return cls(token=score.text, bytes=tuple(score.bytes), logprob=score.logprob)


class ChatLogprob(Logprob):
    """A token, and what else might have stood in its place."""

    top_logprobs: tuple[Logprob, ...]


class ChatLogprobs(Config):
    """The scores of an answer, or of a chunk of it."""

    content: tuple[ChatLogprob, ...]
    refusal: None = None


class Usage(Config):
    """What was read and written, in tokens; a frame of audio that the LLM reads is one."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SpokenAudio(Config):
    """An answer's sound."""

    id: str
    data: str  # base64
    expires_at: int  # when its id is forgotten, in seconds since 1970
    transcript: str  # what of the answer is said


class AnswerMessage(Config):
    """An answer; `content` holds it also where it is said."""

    role: Literal["assistant"]
    content: str
    refusal: None
    audio: SpokenAudio | None = None


class Choice(Config):
    """One of the answers."""

    index: int
    message: AnswerMessage
    finish_reason: Reason
    logprobs: ChatLogprobs | None


class ChatCompletion(Config):
    """All answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Usage


class AudioDelta(Config):
    """The next of an answer's sound; the transcript and the expiry come with the last."""

    id: str
    data: str | None = None
    expires_at: int | None = None
    transcript: str | None = None


class Delta(Config):
    """The next of an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    audio: AudioDelta | None = None


class ChunkChoice(Config):
    """The next of one of the answers."""

    index: int
    delta: Delta
    finish_reason: Reason | None
    logprobs: ChatLogprobs | None = None


class ChatChunk(Config):
    """An event of a stream; with `include_usage`, the last has no choice and the usage of all."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None
