import pytest
from tiny_models import TOKENIZER, tiny_assistant

from sonant.chat.messages import Conversation, user
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig

CONFIG = GenerationConfig(max_new_tokens=12)
QUESTIONS = [Conversation((user(text),), id=text) for text in ("a", "a much longer question than that", "b?")]


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    llm = {"hidden_size": 32, "intermediate_size": 32, "max_position_embeddings": 256}
    return tiny_assistant(llm=llm, adapter={"kind": "stack_mlp", "stack": 2}, lora=None)


def test_replies_come_in_the_order_of_the_questions_whatever_the_batch_size(assistant: Assistant) -> None:
    one_by_one = [assistant.reply(question, config=CONFIG) for question in QUESTIONS]
    for batch_size in (1, 2, 3):
        assert assistant.replies(QUESTIONS, config=CONFIG, batch_size=batch_size) == one_by_one


def test_rows_of_many_questions_are_made_when_their_turn_is_near(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of them were made first: the features of 20,000 clips of half a minute are 20 GB.
    monkeypatch.setattr("sonant.generate.assistant._BATCHES_AT_A_TIME", 2)
    make, made, made_until = Assistant.example, list[str](), list[int]()
    monkeypatch.setattr(Assistant, "example", lambda self, c: made.append(c.id) or make(self, c))
    many = [*QUESTIONS, *reversed(QUESTIONS)]
    replies = assistant.replies(many, config=CONFIG, batch_size=1, progress=lambda _: made_until.append(len(made)))
    assert made_until == [2, 2, 4, 4, 6, 6]
    assert replies[:3] == replies[:2:-1] == assistant.replies(QUESTIONS, config=CONFIG)


def test_progress_counts_every_question_once(assistant: Assistant) -> None:
    seen: list[int] = []
    assistant.replies(QUESTIONS, config=CONFIG, batch_size=2, progress=seen.append)
    assert seen == [2, 1]


def test_streamed_pieces_joined_are_the_reply_also_across_characters_of_several_bytes(assistant: Assistant) -> None:
    for question in QUESTIONS:
        pieces = list(assistant.stream(question, config=CONFIG))
        assert "".join(pieces) == assistant.reply(question, config=CONFIG).text


def test_the_stop_token_is_no_part_of_the_reply(assistant: Assistant) -> None:
    replies = assistant.replies(QUESTIONS, config=GenerationConfig(max_new_tokens=100))
    for reply in replies:
        assert not set(reply.token_ids) & TOKENIZER.stop_ids
        assert reply.finished == (len(reply.token_ids) < 100)
