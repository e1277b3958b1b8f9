"""Chat: an answer continues the conversation as the chat template writes it, and ends where the model ends its turn."""

import pytest

from tests.support.tiny_chat import CONFIG, PARAMS, WrittenAnswers, chat_of, chat_tokenizer
from tests.support.tiny_model import ENGLISH, KHMER, tiny_tokenizer
from tonsai_jax.chat.conversation import Message
from tonsai_jax.chat.template import ChatTemplate
from tonsai_jax.errors import UserError
from tonsai_jax.inference.chat import Chat, Reply
from tonsai_jax.inference.decoding import Decoder
from tonsai_jax.inference.generate import Generator
from tonsai_jax.sampling import Sampling
from tonsai_jax.text.syllables import SYLLABLE
from tonsai_jax.tokenizer.special_tokens import END_OF_TURN

GREEDY = Sampling(temperature=0)
QUESTION = Message("user", "Who walks?")
ANSWER = Message("assistant", "The children.")
SYSTEM = Message("system", "Be kind.")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return chat_tokenizer(tmp_path_factory.mktemp("tokenizer") / "chat")


@pytest.fixture(scope="module")
def chat(tokenizer):
    return chat_of(tokenizer)


def reply(chat: Chat, *messages: Message, new: int = 12, sampling: Sampling = GREEDY) -> Reply:
    return chat.reply(messages, max_new_tokens=new, sampling=sampling, seed=0)


def test_an_answer_continues_the_prompt_of_the_chat_template_up_to_an_end_id(chat, tokenizer):
    prompt = ChatTemplate.of(tokenizer).prompt([QUESTION])
    decoder = Decoder(CONFIG, PARAMS, tokenizer.vocab_size)
    steps = decoder.generate([prompt], end_ids=tokenizer.end_ids, max_new_tokens=12, sampling=GREEDY, seed=0)
    ids = [ids[0] for ids in steps]
    assert "".join(reply(chat, QUESTION)) == tokenizer.decode(ids).removesuffix("\ufffd").lstrip()


def test_the_end_of_a_turn_ends_an_answer(chat, tokenizer, monkeypatch):
    WrittenAnswers(
        monkeypatch, [*tokenizer.encode("abc"), tokenizer.special_tokens[END_OF_TURN], *tokenizer.encode("def")]
    )
    assert "".join(reply(chat, QUESTION)) == "abc"


def test_the_pieces_end_between_two_orthographic_syllables_and_join_to_the_answer(chat, tokenizer, monkeypatch):
    WrittenAnswers(monkeypatch, tokenizer.encode(KHMER))
    pieces = list(reply(chat, QUESTION))
    assert "".join(pieces) == KHMER
    assert len([piece for piece in pieces if piece]) > 10
    assert [syllable for piece in pieces for syllable in SYLLABLE.findall(piece)] == SYLLABLE.findall(KHMER)


def test_white_space_before_an_answer_is_left_out(chat, tokenizer, monkeypatch):
    WrittenAnswers(monkeypatch, tokenizer.encode("\n  two words"))
    assert "".join(reply(chat, QUESTION)) == "two words"


def test_a_closed_answer_asks_the_model_for_nothing_more(chat, tokenizer, monkeypatch):
    model = WrittenAnswers(monkeypatch, tokenizer.encode(ENGLISH))
    answer = reply(chat, QUESTION)
    next(iter(answer))
    answer.close()
    assert list(answer) == []
    assert model.given == 1


def test_an_answer_knows_whether_the_limit_ended_it(chat, tokenizer, monkeypatch):
    WrittenAnswers(monkeypatch, tokenizer.encode("abc"))
    short, cut = reply(chat, QUESTION, new=9), reply(chat, QUESTION, new=3)
    assert not cut.is_cut
    assert ("".join(short), short.is_cut) == ("abc", False)
    assert ("".join(cut), cut.is_cut) == ("abc", True)


def test_messages_are_normalized_like_the_training_text(chat, tokenizer, monkeypatch):
    model = WrittenAnswers(monkeypatch, [])
    for text in ("ស្ត្រី", "ស្រ្តី", "ស្ត្រី\u200b"):  # two orders of the subscripts, and an invisible space
        list(reply(chat, Message("user", text)))
    assert model.prompts[0] == model.prompts[1] == model.prompts[2]


def test_the_oldest_questions_and_answers_are_left_out_where_the_context_is_full_and_the_system_prompt_stays(
    chat, tokenizer, monkeypatch
):
    model = WrittenAnswers(monkeypatch, [])
    template = ChatTemplate.of(tokenizer)
    history = [QUESTION, ANSWER] * 5
    whole = len(template.prompt([SYSTEM, *history, QUESTION]))
    assert whole > CONFIG.context_length
    answer = reply(chat, SYSTEM, *history, QUESTION, new=20)
    list(answer)
    [prompt] = model.prompts
    assert answer.left_out % 2 == 0
    assert prompt == template.prompt([SYSTEM, *history[answer.left_out :], QUESTION])
    assert len(prompt) + 20 <= CONFIG.context_length
    one_more = template.prompt([SYSTEM, *history[answer.left_out - 2 :], QUESTION])
    assert len(one_more) + 20 > CONFIG.context_length


def test_a_conversation_that_fits_is_left_whole(chat):
    assert reply(chat, SYSTEM, QUESTION, ANSWER, QUESTION).left_out == 0


def test_a_message_that_is_too_long_is_refused_in_one_line(chat):
    long = Message("user", "x" * 200)
    message = r"the message has 20\d tokens, and only 116 fit: the model's context_length=128 less max_new_tokens=12; shorten it"
    with pytest.raises(UserError, match=message):
        reply(chat, QUESTION, ANSWER, long)
    with pytest.raises(UserError, match="the message and the system prompt have 2"):
        reply(chat, SYSTEM, long)


@pytest.mark.parametrize("new", [0, 128])
def test_a_limit_that_leaves_no_room_for_messages_or_answer_is_refused(chat, new):
    with pytest.raises(UserError, match=f"max_new_tokens={new} must be at least 1, and less than the model's context"):
        reply(chat, QUESTION, new=new)


def test_a_refusal_of_the_chat_template_is_the_error_of_a_user(tokenizer, monkeypatch):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt here') }}{% endif %}"
    monkeypatch.setitem(tokenizer.__dict__, "chat_template", template)
    with pytest.raises(UserError, match="the model's chat template refuses the conversation: no system prompt here"):
        reply(Chat(Generator(CONFIG, PARAMS, tokenizer)), SYSTEM, QUESTION)


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    with pytest.raises(UserError, match="this tokenizer has no chat template"):
        Chat(Generator(CONFIG, PARAMS, tiny_tokenizer(tmp_path / "plain")))
