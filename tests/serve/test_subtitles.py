from sonant.serve.subtitles import Stretch, srt, timestamp, vtt

TWO = (Stretch(0.0, 1.5, "one"), Stretch(1.5, 2.0, " "), Stretch(3661.0005, 3662.5, "two &\n\n<b>three</b> --> four"))


def test_times_are_rounded_to_milliseconds() -> None:
    assert timestamp(0.0, point=",") == "00:00:00,000"
    assert timestamp(59.9996, point=".") == "00:01:00.000"
    assert timestamp(100 * 3600 + 61.25, point=".") == "100:01:01.250"


def test_subrip_numbers_what_has_words_and_keeps_a_block_whole() -> None:
    assert srt(TWO) == (
        "1\n00:00:00,000 --> 00:00:01,500\none\n\n2\n01:01:01,000 --> 01:01:02,500\ntwo & <b>three</b> -- > four\n\n"
    )


def test_webvtt_shows_markup_as_text() -> None:
    assert vtt(TWO) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\none\n\n"
        "01:01:01.000 --> 01:01:02.500\ntwo &amp; &lt;b&gt;three&lt;/b&gt; --&gt; four\n\n"
    )


def test_a_recording_without_words_has_no_block() -> None:
    assert srt([]) == ""
    assert vtt([Stretch(0, 1, "")]) == "WEBVTT\n\n"
