from dataclasses import replace

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.evaluate.arms import _question, shown, with_text

CLIP = AudioPart(path="a.wav", transcript="blue")


def test_audio_is_replaced_by_text_where_it_stood() -> None:
    prompt = Conversation((user("say:", CLIP, "now"), assistant("ok"), user(CLIP)))
    (written,) = with_text([prompt], ["one", "two"])
    assert [m.text for m in written.messages] == ["say: one now", "ok", "two"]
    assert not written.audio_parts


def test_what_an_earlier_answer_sounds_like_is_neither_replaced_nor_asked() -> None:
    aloud, read = (
        Conversation((user(CLIP), answer, user(CLIP))) for answer in (assistant("ok", CLIP), assistant("ok"))
    )
    assert [m.text for m in with_text([aloud], ["one", "two"])[0].messages] == ["one", "ok", "two"]
    assert shown(aloud) == shown(read)
    data = replace(CLIP, path=None, data=b"x")
    one, other = (
        Conversation((user(data), answer, user("so?"))) for answer in (assistant("ok", data), assistant("ok"))
    )
    assert _question(one) == _question(other)


def test_a_prompt_is_shown_with_its_clips_numbered() -> None:
    assert shown(Conversation((user("say:", CLIP),))) == "say: [clip 1]"
    prompt = Conversation((user("say:", CLIP), assistant("ok"), user(CLIP)))
    assert shown(prompt) == "user: say: [clip 1]\nassistant: ok\nuser: [clip 2]"
