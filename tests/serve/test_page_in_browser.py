"""The page in a real browser, against a real server: what a reader does, and what comes of it."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Scripted, said, scripted_service, serving, written

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, TextPart
from sonant.errors import BusyError
from sonant.generate.assistant import Assistant
from sonant.serve.answering.questions import Question, TextDelta
from sonant.serve.service import Service
from sonant.synth.world.facts import facts
from sonant.testing import tone

pytest.importorskip("playwright", reason="playwright is not installed: pip install 'sonant[browser]'")
from playwright.sync_api import expect, sync_playwright

from bench.browsing import CHROMIUM, chromium, hold_to_talk, last_answer, microphone, opened, spoken

expect.set_options(timeout=60_000)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt install chromium, or name one in SONANT_CHROMIUM"),
    # Playwright's loop stays open until its thread ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

FACT = next(fact for fact in facts() if (fact.entity, fact.relation) == ("elephant", "colour"))
SOUND = tone(0.4, 440) * 0.5


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A microphone into which a question is spoken once."""
    return microphone(tmp_path_factory.mktemp("microphone") / "question.wav", spoken(FACT.questions[0]))


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Any, question: Path) -> Iterator[Any]:
    with chromium(playwright, question) as browser:
        yield browser


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page of a model with a voice whose answers are `scripted`."""
    with opened(browser, url) as page:
        yield page


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    save(tmp_path / "clip.wav", SOUND, sample_rate_hz=16_000)
    return tmp_path / "clip.wav"


def say(page: Any, text: str) -> str:
    page.fill("#text", text)
    page.press("#text", "Enter")
    return last_answer(page)


def saved(page: Any, name: str = "#export-all") -> list[Conversation]:
    with page.expect_download() as download:
        page.locator(name).click()
    lines = Path(download.value.path()).read_text().splitlines()
    return [Conversation.from_json(json.loads(line)) for line in lines]


def test_a_question_spoken_into_the_microphone_is_answered_rightly(
    browser: Any, service: Service, cascade: Assistant
) -> None:
    with serving(service) as url, opened(browser, url) as page:
        hold_to_talk(page, 2.5)
        assert last_answer(page) == FACT.statement
        assert "first word" in page.locator(".foot").inner_text()
        assert page.locator(".message.user .clip canvas.wave").bounding_box()["width"] > 100
        expect(page.locator(".heard")).to_have_text(FACT.questions[0])

        # What is saved is a line of a manifest, and the model answers it as it did on the page.
        (line,) = saved(page)
        assert line.reference == FACT.statement
        assert cascade.reply(line.prompt()).text == FACT.statement
        assert line.heard_parts[0].extra["machine_transcript"] == FACT.questions[0]


def test_hands_free_needs_no_hand(browser: Any, service: Service) -> None:
    with serving(service) as url, opened(browser, url) as page:
        page.locator("#hands-free").click()
        assert last_answer(page) == FACT.statement
        assert page.locator("#composer").get_attribute("data-state") == "listening"
        page.keyboard.press("Escape")
        assert page.locator("#hands-free").get_attribute("aria-pressed") == "false"


def test_who_speaks_while_an_answer_is_given_stops_it(
    playwright: Any, tmp_path: Path, url: str, scripted: Scripted
) -> None:
    scripted.told = lambda question: [TextDelta("it goes on")]  # and never ends
    heard = microphone(tmp_path / "again.wav", spoken(FACT.questions[0]), after_s=1.5)
    with chromium(playwright, heard, again=True) as browser, opened(browser, url) as page:
        page.locator("#hands-free").click()
        expect(page.locator(".message.user").nth(1)).to_be_visible()
        expect(page.locator(".message.assistant").first.locator(".foot")).to_contain_text("stopped")
        page.keyboard.press("Escape")
    asked = [[message.role for message in question.conversation.messages] for question in scripted.questions]
    assert ["user", "assistant", "user"] in asked


def test_without_an_audio_worklet_a_clip_is_recorded_all_the_same(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        page.evaluate("delete window.AudioWorkletNode")
        page.locator("#talk").press("Enter")
        page.wait_for_selector("#composer[data-state=recording]")
        page.wait_for_timeout(2000)
        page.locator("#talk").press("Enter")
        expect(page.locator("#parts .clip .clock")).to_have_text(re.compile(r"[12]\.\d s"))
        page.locator("#hands-free").click()
        expect(page.locator(".toast")).to_contain_text("Hold to talk instead")


def test_the_space_bar_talks_where_nothing_is_typed(page: Any, scripted: Scripted) -> None:
    page.locator("#text").focus()
    page.keyboard.down("Space")
    page.wait_for_selector("#composer[data-state=held]")
    page.wait_for_timeout(1500)
    page.keyboard.up("Space")
    assert last_answer(page) == "an answer"
    (asked,) = scripted.questions[:1]
    assert len(asked.conversation.heard_parts) == 1
    page.fill("#text", "two")
    page.press("#text", "Space")
    assert page.input_value("#text") == "two "


def test_a_tap_records_until_the_next_and_escape_throws_away(page: Any) -> None:
    talk = page.locator("#talk")
    for end in (talk.click, lambda: page.keyboard.press("Escape")):
        talk.click()
        page.wait_for_selector("#composer[data-state=recording]")
        page.wait_for_timeout(1200)
        end()
        page.wait_for_selector("#composer[data-state=idle]")
    assert page.locator("#parts .clip").count() == 1
    assert page.locator(".message").count() == 0


def test_text_and_clips_are_sent_in_the_order_they_were_given(page: Any, scripted: Scripted, clip: Path) -> None:
    page.fill("#text", "first this:")
    page.locator("#file").set_input_files(clip)
    page.wait_for_selector("#parts .clip")
    page.fill("#text", "then that:")
    page.locator("#file").set_input_files(clip)
    expect(page.locator("#parts .clip")).to_have_count(2)
    say(page, "what was it?")
    (turn,) = scripted.questions[0].conversation.messages
    kinds = [part.text if isinstance(part, TextPart) else "clip" for part in turn.parts]
    assert kinds == ["first this:", "clip", "then that:", "clip", "what was it?"]


def test_a_file_that_is_no_sound_is_refused_by_name(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no sound at all")
    page.locator("#file").set_input_files(tmp_path / "notes.wav")
    assert "notes.wav: this browser cannot decode it" in page.locator(".toast").inner_text()


def test_a_spoken_answer_is_played_as_it_comes_and_kept(page: Any, scripted: Scripted) -> None:
    scripted.told = lambda question: said("so be it", SOUND, SOUND)
    assert say(page, "speak") == "so be it"
    assert scripted.questions[0].spoken
    expect(page.locator(".message.assistant .clock")).to_have_text("0.8 s")
    assert "first sound" in page.locator(".foot").inner_text()
    page.reload()
    page.locator("#conversations .name").click()
    (line,) = saved(page)
    assert line.messages[-1].spoken_text == "so be it"
    assert line.spoken is not None


def test_an_answer_can_be_stopped_and_asked_again(page: Any, scripted: Scripted) -> None:
    scripted.told = lambda question: [TextDelta("it goes on")]  # and never ends
    page.fill("#text", "go")
    page.press("#text", "Enter")
    expect(page.locator(".message.assistant .text")).to_have_text("it goes on")
    assert page.locator("#send").get_attribute("aria-label") == "Stop the answer"
    page.locator("#send").click()
    expect(page.locator(".foot")).to_contain_text("stopped")
    scripted.told = lambda question: written("at last")
    page.locator(".foot [aria-label='Ask again']").click()
    expect(page.locator(".message.assistant .text")).to_have_text("at last")
    assert page.locator(".message").count() == 2


def test_a_busy_server_is_told_and_may_be_asked_again(page: Any, scripted: Scripted) -> None:
    def busy(question: Question) -> BusyError:
        return BusyError("80 questions wait", retry_after_s=3)

    scripted.told = busy
    page.fill("#text", "now?")
    page.press("#text", "Enter")
    notice = page.locator(".notice")
    notice.wait_for()
    assert "Try again in 3 s" in notice.inner_text()
    scripted.told = lambda question: written("now")
    notice.get_by_role("button").click()
    assert last_answer(page) == "now"


def test_conversations_are_kept_renamed_deleted_and_brought_back(page: Any) -> None:
    say(page, "the first")
    page.keyboard.press("Alt+n")
    say(page, "the second")
    names = page.locator("#conversations .name")
    assert names.all_inner_texts() == ["the second", "the first"]
    page.locator("#conversations li").nth(1).hover()
    page.get_by_label("Rename the first").click()
    page.keyboard.type("another name")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["the second", "another name"])  # it is kept by then
    page.reload()
    page.locator("#conversations").get_by_text("another name").click()
    expect(page.locator(".message.user .text")).to_have_text("the first")
    page.locator("#conversations li").nth(1).hover()
    page.get_by_label("Delete another name").click()
    expect(page.locator("#conversations .name")).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#conversations .name")).to_have_count(2)


def test_a_manifest_line_goes_out_and_in_unchanged(page: Any, tmp_path: Path, clip: Path) -> None:
    line = {
        "id": "row-7", "task": "asr", "language": "en", "speaker": "anna",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "transcribe:"}, AudioPart(
                data=clip.read_bytes(), transcript="a tone", extra={"optional": True}).to_json()]},
            {"role": "assistant", "content": "a tone"},
        ],
    }  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n\n")
    page.locator("#manifest").set_input_files(tmp_path / "rows.jsonl")
    page.wait_for_selector(".message.assistant")
    assert page.locator(".heard").inner_text() == "a tone"
    (back,) = saved(page)
    wanted = Conversation.from_json(line)
    assert (back.id, back.task, back.language, back.speaker) == ("row-7", "asr", "en", "anna")
    assert [message.text for message in back.messages] == [message.text for message in wanted.messages]
    (asked,), (given,) = wanted.heard_parts, back.heard_parts
    assert given.data == asked.data
    assert (given.transcript, given.extra) == (asked.transcript, asked.extra)


def test_a_manifest_that_names_files_is_refused_with_its_line(page: Any, tmp_path: Path) -> None:
    content = [{"type": "audio", "path": "clips/a.flac"}]
    line = json.dumps({"messages": [{"role": "user", "content": content}]})
    (tmp_path / "rows.jsonl").write_text(f"\n{line}\n")
    page.locator("#manifest").set_input_files(tmp_path / "rows.jsonl")
    told = page.locator(".toast").inner_text()
    assert "line 2: messages[0].content[0] names the file clips/a.flac" in told


def test_a_key_is_asked_for_where_one_is_wanted_and_kept_for_the_tab(browser: Any, scripted: Scripted) -> None:
    service = scripted_service(scripted, key="sesame")
    with serving(service) as url, opened(browser, url, ready=False) as page:
        page.wait_for_selector("#settings[open]")
        assert "asks for a key" in page.locator("#why").inner_text()
        page.fill("#settings [name=key]", "wrong")
        page.keyboard.press("Enter")
        page.get_by_text("does not take this key").wait_for()
        page.fill("#settings [name=key]", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model[data-state=ready]")
        page.reload()
        page.wait_for_selector("#model[data-state=ready]")
        assert say(page, "open") == "an answer"
        assert page.evaluate("Object.values(localStorage).join().includes('sesame')") is False


def test_a_key_in_the_address_is_taken_and_removed_from_it(browser: Any, scripted: Scripted) -> None:
    with serving(scripted_service(scripted, key="sesame")) as url, opened(browser, f"{url}/#key=sesame") as page:
        assert page.url == f"{url}/"


def test_everything_can_be_reached_and_named_without_a_mouse(page: Any) -> None:
    say(page, "hello")
    nameless = """[...document.querySelectorAll('button, input:not([hidden]), textarea, [role=slider]')]
      .filter((e) => e.checkVisibility() && !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).length"""
    assert page.evaluate(nameless) == 0
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"new", "theme", "open-settings", "attach", "hands-free", "text", "talk"} <= reached


def test_a_phone_shows_all_of_it(browser: Any, url: str) -> None:
    with opened(browser, url, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for name in ("#talk", "#send", "#menu", "#attach", "#hands-free"):
            box = page.locator(name).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 640
        page.locator("#menu").tap()
        expect(page.locator("#new")).to_be_in_viewport(ratio=1)


def test_dark_and_light_follow_the_system_until_one_is_chosen(browser: Any, url: str) -> None:
    # A function: an expression is evaluated in the page at every look, which the page's policy forbids.
    lightness = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    dark, light = f"{lightness} < 60", f"{lightness} > 200"
    with opened(browser, url, color_scheme="dark") as page:
        page.wait_for_function(dark)
        page.emulate_media(color_scheme="light")
        page.wait_for_function(light)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(dark)
        page.locator("#theme").click()
        page.wait_for_function(light)
        page.reload()
        page.wait_for_function(light)


def test_what_the_page_computes_of_sound_is_right(page: Any) -> None:
    rate_hz, hz = 16_000, 1_000
    tones = np.round(np.sin(2 * np.pi * hz / rate_hz * np.arange(rate_hz)) * 20_000).astype(int).tolist()
    back = page.evaluate(
        """async (tones) => {
          const wav = await import("/page/wav.js");
          const sound = { samples: Int16Array.from(tones), rate: 16000 };
          const read = await wav.decodeSound(wav.fromBase64(wav.toBase64(wav.encodeWav(sound))));
          return [read.rate, read.samples.every((x, i) => x === sound.samples[i]), read.samples.length];
        }""",
        tones,
    )
    assert back == [rate_hz, True, rate_hz]
    changes = page.evaluate(
        """async () => {
          const { VoiceActivity } = await import("/page/voice-activity.js");
          const activity = new VoiceActivity();
          const changes = [];
          for (let i = 0; i < 150; i++) {
            const loud = i >= 50 && i < 90 ? 0.2 : 0.002;
            const block = Float32Array.from({ length: 512 }, (_, j) => loud * Math.sin(i + j * 1.7));
            const change = activity.push(block, 16000);
            if (change) changes.push([change, i * 0.032]);
          }
          return changes;
        }"""
    )
    assert [change for change, _ in changes] == ["started", "stopped"]
    assert changes[0][1] == pytest.approx(50 * 0.032, abs=0.2)
    assert changes[1][1] == pytest.approx(90 * 0.032, abs=0.8)


def test_what_is_deleted_while_it_is_answered_stays_deleted(page: Any, scripted: Scripted) -> None:
    scripted.told = lambda question: [TextDelta("it goes on")]  # and never ends
    page.fill("#text", "go")
    page.press("#text", "Enter")
    expect(page.locator(".message.assistant .text")).to_have_text("it goes on")
    page.locator("#conversations li").first.hover()
    page.get_by_label("Delete go").click()
    page.get_by_role("button", name="Undo").wait_for()
    page.wait_for_timeout(300)
    expect(page.locator("#conversations .name")).to_have_count(0)
    page.reload()
    expect(page.locator("#conversations .name")).to_have_count(0)


def test_a_conversation_that_finds_no_room_is_told(page: Any, tmp_path: Path) -> None:
    # What was put was well received, and the whole thrown away at the end: nothing was said of it.
    save(tmp_path / "long.wav", np.tile(SOUND, 200)[: 60 * 16_000], sample_rate_hz=16_000)
    client = page.context.new_cdp_session(page)
    where = page.evaluate("location.origin")
    client.send("Storage.overrideQuotaForOrigin", {"origin": where, "quotaSize": 100_000})
    page.locator("#file").set_input_files(tmp_path / "long.wav")
    page.locator("#send").click()
    expect(page.locator("#toasts")).to_contain_text("could not keep the conversation")


def test_hands_free_that_is_turned_off_while_the_microphone_opens_stays_off(page: Any) -> None:
    page.evaluate(
        """() => {
          const given = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            window.stream = await given(wanted);
            await new Promise((resolve) => setTimeout(resolve, 800));
            return window.stream;
          };
        }"""
    )
    page.locator("#hands-free").click()
    page.keyboard.press("Escape")
    page.wait_for_timeout(1500)
    assert page.locator("#hands-free").get_attribute("aria-pressed") == "false"
    assert page.evaluate("window.stream.getTracks().every((track) => track.readyState === 'ended')")


def test_titles_requests_and_nulls_are_what_others_can_read(page: Any, clip: Path) -> None:
    found = page.evaluate(
        """async (data) => {
          const { entitle } = await import("/page/title.js");
          const { fromManifest, toRequest } = await import("/page/manifest.js");
          const text = { type: "text", text: "a".repeat(47) + "😀 and more" };
          const talk = { messages: [{ role: "user", parts: [text] }] };
          entitle(talk);
          const sound = { type: "audio", data, duration_s: null, transcript: null };
          const [read] = await fromManifest(JSON.stringify({ messages: [{ role: "user", content: [sound] }] }));
          const [part] = read.messages[0].parts;
          const asks = (_, i) => ({ role: "user", parts: [{ ...part, heard: `clip ${i}` }] });
          const asked = Array.from({ length: 18 }, asks);
          const sent = toRequest(asked).map(({ content }) => (typeof content === "string" ? content : content[0].type));
          return { title: talk.title, samples: part.samples.length, transcript: part.transcript ?? null, sent };
        }""",
        base64.b64encode(clip.read_bytes()).decode(),
    )
    assert found["title"] == "a" * 47 + "😀…"  # half of it was left, which no manifest may hold
    assert (found["samples"], found["transcript"]) == (len(SOUND), None)
    assert found["sent"] == ["clip 0", "clip 1"] + ["input_audio"] * 16  # the 17th question was always refused
