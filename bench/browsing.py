"""A real Chromium whose microphone is a file, and the page in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import resample, save
from sonant.synth.espeak import EspeakSynthesizer
from sonant.synth.tts import SpeechRequest

CHROMIUM = os.environ.get("SONANT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
MICROPHONE_HZ = 48_000
FLAGS = (
    "--use-fake-ui-for-media-stream",  # the microphone is allowed without asking
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def spoken(text: str) -> NDArray[np.float32]:
    """Samples (S,) at 16 kHz of a voice that says `text`."""
    (speech,) = EspeakSynthesizer(num_workers=1).synthesize([SpeechRequest(text, "en-us+john")])
    assert isinstance(speech, tuple), speech
    samples, rate_hz = speech
    return resample(samples, from_hz=rate_hz, to_hz=16_000)


def microphone(path: Path, samples: NDArray[np.float32], *, before_s: float = 0.3, after_s: float = 30.0) -> Path:
    """A file that a microphone hears: the samples between stretches of silence."""
    sound = resample(samples, from_hz=16_000, to_hz=MICROPHONE_HZ)
    silence = [np.zeros(round(seconds * MICROPHONE_HZ), np.float32) for seconds in (before_s, after_s)]
    save(path, np.concatenate([silence[0], np.clip(sound, -1, 1), silence[1]]), sample_rate_hz=MICROPHONE_HZ)
    return path


@contextmanager
def chromium(playwright: Any, heard: Path, *, again: bool = False) -> Iterator[Any]:
    """A browser whose microphone hears a file, `again` and again or once."""
    device = f"--use-file-for-fake-audio-capture={heard}{'' if again else '%noloop'}"
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, device])
    yield browser
    browser.close()


@contextmanager
def opened(browser: Any, url: str, *, ready: bool = True, **device: Any) -> Iterator[Any]:
    """The page, once its server has told who answers; it may complain of nothing and ask nobody else."""
    context = browser.new_context(permissions=["microphone"], **device)
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    if ready:
        page.wait_for_selector("#model[data-state=ready]")
    yield page
    context.close()
    server = url.split("/#")[0]
    assert not [address for address in asked if not address.startswith((server, "blob:", "data:"))]
    # A refused request is told on the console, too; what the page makes of it, its own test looks at.
    assert not [complaint for complaint in complaints if "Failed to load resource" not in complaint]


def hold_to_talk(page: Any, seconds: float) -> None:
    """Holds the button with the mouse."""
    page.locator("#talk").hover()
    page.mouse.down()
    page.wait_for_timeout(1000 * seconds)
    page.mouse.up()


def last_answer(page: Any) -> str:
    """The text of the last answer, once it is whole."""
    page.wait_for_selector(".message.assistant:last-child .foot .icon-button")
    return str(page.locator(".message.assistant:last-child .text").inner_text())
