"""The errors a reader may meet, as one tree.

    SonantError
    ├── ConfigError        a setting that does not exist, has the wrong type or does not fit
    ├── AudioError         a recording that cannot be decoded or used
    ├── ChatError          a conversation that cannot be rendered to tokens
    ├── ManifestError      a line of a manifest that cannot be read (file:line)
    ├── ModelError         parts of a model that do not exist or do not fit together
    ├── CheckpointError    a checkpoint that is missing, incomplete or damaged
    ├── TrainingError      a run that cannot go on (losses not finite, wrong world size)
    ├── SynthesisError     a text that cannot be spoken
    │   └── EngineError    a text-to-speech engine or voice that is missing: no other text will help
    ├── EvaluationError    a score that cannot be computed
    ├── RequestError       a question to a model that cannot be answered
    ├── BusyError          too many questions are waiting: ask again in `retry_after_s`
    └── ClosingError       a server that answers no more questions

Each message says what happened, the value, what is allowed and what to do. The command line prints it as one line.
"""


class SonantError(Exception):
    """The root: catching it catches everything that Sonant raises on purpose."""


class ConfigError(SonantError):
    """A setting that does not exist, has the wrong type or does not fit."""


class AudioError(SonantError):
    """A recording that cannot be decoded or used."""


class ChatError(SonantError):
    """A conversation that cannot be rendered to tokens."""


class ManifestError(SonantError):
    """A line of a manifest that cannot be read; the message starts with file:line."""


class ModelError(SonantError):
    """Parts of a model that do not exist or do not fit together."""


class CheckpointError(SonantError):
    """A checkpoint that is missing, incomplete or damaged."""


class TrainingError(SonantError):
    """A run that cannot go on."""


class SynthesisError(SonantError):
    """A text that cannot be spoken."""


class EngineError(SynthesisError):
    """A text-to-speech engine or voice that is missing: no other text will help."""


class EvaluationError(SonantError):
    """A score that cannot be computed."""


class RequestError(SonantError):
    """A question to a model that cannot be answered."""


class BusyError(SonantError):
    """Too many questions are waiting for an answer; ask again in `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClosingError(SonantError):
    """A server that answers no more questions, since it is about to stop."""
