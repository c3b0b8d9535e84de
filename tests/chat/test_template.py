"""What a template puts around messages is found for every family, or refused with a reason."""

import pytest

from sonant.chat.template import Strip, frame
from sonant.errors import ChatError
from sonant.testing import byte_tokenizer

KEEPS, TRIMS = Strip(None, None), Strip("", "")
TURN = "<|im_start|>{{ m['role'] }}\n%s<|im_end|>\n"


def hf_with(template):
    hf = byte_tokenizer().hf
    hf.chat_template = template
    return hf


def each(content):
    return hf_with("{% for m in messages %}" + TURN % content + "{% endfor %}")


def test_chatml_is_taken_apart():
    found = frame(byte_tokenizer().hf, ["user", "assistant"])
    assert found.glue == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n")
    assert found.strips == (KEEPS, KEEPS)


def test_the_generation_prompt_is_the_last_glue():
    found = frame(byte_tokenizer().hf, ["user"], add_generation_prompt=True)
    assert found.glue == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("content", "strip"),
    [
        ("{{ m['content'] }}", KEEPS),
        ("{{ m['content'] | trim }}", TRIMS),
        ("{{ m['content'].strip('\\n') }}", Strip("\n", "\n")),
        ("{{ m['content'].lstrip('\\n') }}", Strip("\n", None)),
        ("{{ m['content'].rstrip() }}", Strip(None, "")),
        (
            "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}",
            KEEPS,
        ),
        (
            "{% if m['content'] is string %}{{ m['content'] | trim }}"
            "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}",
            TRIMS,
        ),
    ],
)
def test_stripping_is_noticed(content, strip):
    found = frame(each(content), ["user"])
    assert found.strips == (strip,)
    assert found.glue == ("<|im_start|>user\n", "<|im_end|>\n")


@pytest.mark.parametrize("texts", [[], [""], ["a"], [" a "], [" ", "\n a", "b ", " "], [" ", "\n"]])
@pytest.mark.parametrize("strip", [KEEPS, TRIMS, Strip("\n", None), Strip(None, ""), Strip("", None)])
def test_parts_are_stripped_as_their_concatenation(strip, texts):
    whole = "".join(texts)
    if strip.left is not None:
        whole = whole.lstrip(strip.left or None)
    if strip.right is not None:
        whole = whole.rstrip(strip.right or None)
    assert len(strip(texts)) == len(texts)
    assert "".join(strip(texts)) == whole


@pytest.mark.parametrize(
    ("template", "roles", "message"),
    [
        (None, ["user"], "the tokenizer has no chat template; use an instruction-tuned model or set `chat_template`"),
        ("{% for m in messages[1:] %}" + TURN % "{{ m['content'] }}" + "{% endfor %}", ["user", "assistant"],
         r"drops message 0 \(user\), not once$"),
        ("{% for m in messages %}" + TURN % "{{ m['content'] }}{{ m['content'] }}" + "{% endfor %}", ["user"],
         r"repeats 2 times message 0 \(user\)"),
        ("{% for m in messages %}" + TURN % "{{ m['content'] | upper }}" + "{% endfor %}", ["user"], "drops message 0"),
        ("{% for m in messages | reverse %}" + TURN % "{{ m['content'] }}" + "{% endfor %}", ["user", "assistant"],
         r"puts the messages in the order \[1, 0\]$"),
        ("{{ messages[0]['content'] + 3 }}", ["user"], "refuses the roles user: "),
        ("{{ raise_exception('no thanks') }}", ["user", "assistant"], "refuses the roles user, assistant: no thanks$"),
        ("{% for %}", ["user"], "refuses the roles user: "),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_refused(template, roles, message):
    with pytest.raises(ChatError, match=message):
        frame(hf_with(template), roles)


@pytest.mark.parametrize("change", ["upper", "lower"])
def test_a_template_that_changes_the_case_is_found_out_by_any_nonce(change, monkeypatch):
    """One nonce in 1,800 is all digits, and let such a template pass."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "12" * size)
    template = "{% for m in messages %}" + TURN % f"{{{{ m['content'] | {change} }}}}" + "{% endfor %}"
    with pytest.raises(ChatError, match="drops message 0"):
        frame(hf_with(template), ["user"])


def test_a_template_without_system_role_says_where_to_put_the_text():
    with pytest.raises(
        ChatError, match=r"System role not supported; put the system text at the start of the first user"
    ):
        frame(byte_tokenizer("gemma").hf, ["system", "user"])


MERGED = "{% set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"


def test_a_system_message_may_move_into_the_first_question():  # as Gemma 3 does
    template = MERGED + "{% for m in messages[1:] %}[INST]{{ system if loop.first }}{{ m.content }}{% endfor %}"
    assert frame(hf_with(template), ["system", "user", "user"]).glue == ("[INST]", "\n\n", "[INST]", "")


def test_a_system_message_may_not_move_into_the_last_question():  # as Mistral 7B v0.3 does
    template = MERGED + "{% for m in messages[1:] %}[INST]{{ system if loop.last }}{{ m.content }}{% endfor %}"
    with pytest.raises(
        ChatError, match=r"in the order \[1, 0, 2\]; put the system text at the start of the first user"
    ):
        frame(hf_with(template), ["system", "user", "user"])


def test_the_date_in_llama_templates_does_not_change_from_day_to_day():
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today Date: {{ date_string }}\n{{ messages[0]['content'] }}"
    )
    assert frame(hf_with(template), ["user"]).glue == ("Today Date: 26 Jul 2024\n", "")
