"""From the end of speech to the first word on the screen: Chromium, a microphone that is a file, `sonant talk`.

The clock is the benchmark's own, not the page's: from the release of the mouse to the first frame that shows a word.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.browsing import chromium, hold_to_talk, last_answer, microphone, opened, spoken
from bench.figure import RUNS, Figure, at_least, at_most, reported
from sonant.synth.world.facts import facts
from sonant.testing import save_cascade

FOLDER = RUNS / "page"
QUESTIONS = 5  # each asked twice; the first of all warms the model up
CLOCK = """() => {
  window.clock = {};
  document.addEventListener("pointerup", () => (window.clock.began = performance.now()), { capture: true });
  new MutationObserver(() => {
    const text = document.querySelector(".message.assistant:last-child .text")?.textContent;
    if (!text?.trim() || window.clock.first) return;
    window.clock.first = -1;
    requestAnimationFrame(() => setTimeout(() => (window.clock.first = performance.now())));
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


def measure() -> list[Figure]:
    from playwright.sync_api import sync_playwright

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    asked = [fact for fact in facts() if fact.relation == "colour"][:QUESTIONS]
    waits_ms, right = [], []
    with talking(save_cascade(FOLDER / "model")) as url, sync_playwright() as playwright:
        for number, fact in enumerate(asked):
            heard = microphone(FOLDER / f"{number}.wav", spoken(fact.questions[0]))
            with chromium(playwright, heard) as browser:
                for _ in range(2):
                    wait_ms, answer = _ask(browser, url)
                    waits_ms.append(wait_ms)
                    right.append(answer == fact.statement)
    ordered = sorted(waits_ms[1:])
    return [
        at_most("end of speech to the first word on the screen, median", 1000, [ordered[len(ordered) // 2]], "ms"),
        at_most("the same, the slowest", 1000, [ordered[-1]], "ms"),
        reported("the same, the first question after the start", [waits_ms[0]], "ms"),
        at_least(f"right answers, of {len(right)}", len(right) - 2, [sum(right)], ""),
    ]


@contextmanager
def talking(model: Path) -> Iterator[str]:
    """Runs `sonant talk`; gives the address of its page."""
    command = [sys.executable, "-m", "sonant", "talk", str(model), "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.split()[-1]
        finally:
            process.terminate()


def _ask(browser: Any, url: str) -> tuple[float, str]:
    """How long the first word took in ms, and the whole answer."""
    with opened(browser, url) as page:
        page.evaluate(CLOCK)
        hold_to_talk(page, 2.5)
        answer = last_answer(page)
        return page.evaluate("window.clock.first - window.clock.began"), answer
