"""The kinds of faults a manifest may have, and the report that lists those found.

An error makes a row unusable or a score untrue; a warning deserves a look. Codes are stable: scripts may rely on them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning"]


class Kind(NamedTuple):
    """What a fault means and what to do about it."""

    severity: Severity
    meaning: str
    remedy: str


KINDS: Mapping[str, Kind] = {
    # the line
    "no-rows": Kind("error", "a manifest without anything", "write it again, or leave it out"),
    "empty-line": Kind("error", "a line without anything", "delete the line"),
    "not-utf8": Kind("error", "bytes that are not UTF-8", "save the manifest as UTF-8"),
    "bad-json": Kind("error", "a line that is not JSON", "write one JSON object a line"),
    "not-an-object": Kind("error", "JSON, but no object", 'write {"messages": [...]}'),
    # its shape
    "missing-messages": Kind("error", "no messages", "give 'messages' a list of one or more"),
    "missing-content": Kind("error", "a message without content", "give 'content' a text or a list of parts"),
    "wrong-type": Kind("error", "a value of the wrong type", "write the value as the detail says"),
    "unknown-role": Kind("error", "a role that does not exist", "use system, user or assistant"),
    "unknown-part": Kind("error", "a part that is neither text nor audio", "use type 'text' or 'audio'"),
    "missing-path": Kind("error", "an audio part without a recording", "name the file in 'path'"),
    "bad-time": Kind("error", "an impossible offset or duration", "offset_s is 0 or more, duration_s above 0"),
    "misspelt-key": Kind("warning", "a key that is nearly one Sonant knows", "correct it: now it has no effect"),
    "missing-id": Kind("warning", "a row without id", "give each row an id, so that results can name it"),
    # the conversation
    "no-supervision": Kind("error", "the last message is not the assistant's", "add the answer that is to be learnt"),
    "empty-target": Kind("error", "an assistant message without text", "write the answer or drop the row"),
    "empty-text": Kind("warning", "an empty text part", "drop the part"),
    "role-order": Kind("warning", "roles that do not take turns", "system first, then user and assistant in turn"),
    "markup-in-text": Kind("warning", "template markup inside a text", "clean it: it is read as plain characters"),
    "damaged-text": Kind("warning", "text with U+FFFD or control characters", "decode it with its real encoding"),
    "odd-language": Kind("warning", "no language code", "use a code such as en, de or pt-BR"),
    "unfit-speech": Kind(
        "error", "spoken audio that does not fit its text", "put the text before it, all that it says"
    ),
    "unfit-words": Kind("error", "word marks that do not fit what is said", "mark each word once, or leave them out"),
    # the recordings
    "absolute-path": Kind("warning", "an absolute audio path", "make it relative, so that data can be moved"),
    "audio-missing": Kind("error", "a recording that is not there", "check the path; it starts at the manifest"),
    "audio-empty": Kind("error", "a recording without samples", "record it again or drop the row"),
    "audio-corrupt": Kind("error", "a recording that cannot be decoded", "convert or copy it again"),
    "audio-nan": Kind("error", "samples that are NaN or infinite", "write the recording again"),
    "beyond-file": Kind("error", "a clip past the end of its recording", "correct offset_s and duration_s"),
    "beyond-window": Kind("error", "a clip longer than the encoder hears", "cut it into segments"),
    "too-short": Kind("warning", "a clip shorter than 0.1 s", "check offset_s and duration_s"),
    "audio-silent": Kind("warning", "a clip of silence", "listen to it; drop it if nothing is said"),
    "audio-clipped": Kind("warning", "more than 1 % of samples at full scale", "record with less gain"),
    "low-sample-rate": Kind("warning", "recorded below 8 kHz", "find the original: much of the speech is lost"),
    "stereo": Kind("warning", "more than one channel", "they will be averaged; split them if speakers are apart"),
    # the row against the model, and against other rows
    "template-refuses": Kind(
        "error", "a row the chat template cannot render", "change the roles as the template wants"
    ),
    "too-long": Kind("error", "more tokens than the context", "shorten the row or use a longer context"),
    "duplicate-id": Kind("error", "an id used before in this manifest", "make ids unique"),
    "duplicate-content": Kind("warning", "the same conversation as an earlier row", "drop one of the two"),
    "leak-audio": Kind("error", "a clip that another split holds too", "keep it in one split"),
    "leak-content": Kind("error", "a text conversation that another split holds too", "keep it in one split"),
    "leak-sentence": Kind("warning", "an answer that another split holds too", "split by sentence if it matters"),
    "leak-speaker": Kind("warning", "a speaker that another split holds too", "split by speaker if it matters"),
}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one row."""

    code: str  # of KINDS
    path: str
    line: int  # from 1
    id: str
    detail: str

    @property
    def severity(self) -> Severity:
        """ "error" or "warning"."""
        return KINDS[self.code].severity

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.path}:{self.line}"

    @property
    def message(self) -> str:
        """What happened, where, and what to do."""
        return f"{self.place}: {self.code}: {self.detail}; {KINDS[self.code].remedy}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fault as JSON values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "path": self.path,
            "line": self.line,
            "id": self.id,
            "detail": self.detail,
            "remedy": KINDS[self.code].remedy,
        }


@dataclass(frozen=True)
class Report:
    """What the doctor found: every fault in the order of the lines."""

    rows: dict[str, int]  # manifest -> lines read
    faults: list[Fault] = field(default_factory=list)
    clips: int = 0  # different clips that were looked at
    skipped: tuple[str, ...] = ()  # what could not be checked, and why

    @property
    def counts(self) -> dict[str, int]:
        """code -> number of faults, errors first."""
        counted = Counter(fault.code for fault in self.faults)
        return {code: counted[code] for code in sorted(counted, key=lambda c: (KINDS[c].severity, -counted[c], c))}

    @property
    def num_errors(self) -> int:
        """Faults that are errors."""
        return sum(fault.severity == "error" for fault in self.faults)

    @property
    def num_warnings(self) -> int:
        """Faults that are warnings."""
        return len(self.faults) - self.num_errors

    @property
    def exit_status(self) -> int:
        """1 if there is an error, else 0."""
        return int(self.num_errors > 0)

    @property
    def summary(self) -> str:
        """One line."""
        return (
            f"{sum(self.rows.values())} rows and {self.clips} clips in {len(self.rows)} manifests: "
            f"{self.num_errors} errors, {self.num_warnings} warnings"
        )

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Returns (severity, code, count, first place, first detail and remedy) for each kind found, errors first."""
        first = {fault.code: fault for fault in reversed(self.faults)}
        return [
            (first[code].severity, code, str(count), first[code].place, f"{first[code].detail}; {KINDS[code].remedy}")
            for code, count in self.counts.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return {
            "summary": self.summary,
            "rows": self.rows,
            "clips": self.clips,
            "errors": self.num_errors,
            "warnings": self.num_warnings,
            "counts": self.counts,
            "skipped": list(self.skipped),
            "faults": [fault.to_json() for fault in self.faults],
        }
