"""Records of the usual forms become conversations; a record that is none is refused by its reason."""

import pytest

from tonsai_jax.chat.conversation import BadRecordError, Message, conversation_of

HI = (Message("user", "Hi"), Message("assistant", "Hello"))


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"messages": [{"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "Hello "}], "id": 7},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "model", "content": "Hello"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"instruction": "Hi", "context": None, "response": "Hello"},
        {"question": "Hi", "answer": "Hello"},
        {"prompt": "Hi", "response": "Hello"},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]},
        {"query": "Hi", "response": "Hello"},
        {"instruction": None, "prompt": "Hi", "output": None, "response": "Hello"},
        {"instruction": "Hi", "input": " ", "output": "Hello", "system": ""},
        {"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    ],
)  # fmt: skip
def test_the_usual_forms_are_read(record: dict) -> None:
    assert conversation_of(record) == HI


def test_a_system_text_comes_first_wherever_it_is_written() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with_system = (Message("system", "Be kind."), *HI)
    assert conversation_of({"messages": [{"role": "system", "content": "Be kind."}, *turns]}) == with_system
    assert conversation_of({"system": "Be kind.", "messages": turns}) == with_system
    assert conversation_of({"system_prompt": "Be kind.", "instruction": "Hi", "output": "Hello"}) == with_system


def test_an_input_follows_its_instruction_and_a_context_comes_before_its_question() -> None:
    assert conversation_of({"instruction": "Add", "input": "1, 2", "output": "3"})[0].content == "Add\n\n1, 2"
    assert (
        conversation_of({"question": "Who?", "context": "Dara ran.", "answer": "Dara"})[0].content
        == "Dara ran.\n\nWho?"
    )


def turns(*roles: str) -> dict:
    return {"messages": [{"role": role, "content": "text"} for role in roles]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "A story."}, "no conversation in its fields (text); a record has messages"),
        ({}, "no conversation in its fields (none)"),
        ({"messages": []}, "its messages is not a list of messages"),
        ({"messages": "Hi"}, "its messages is not a list of messages"),
        ({"messages": ["Hi"]}, "message 1 of its messages is not an object with role and content"),
        ({"messages": [{"content": "Hi"}]}, "message 1 of its messages has no role"),
        (turns("user", "asistant"), "message 2 of its messages has the role 'asistant'; did you mean 'assistant'?"),
        (turns("user", "tool", "assistant"), "has the role 'tool'; known are: system, user, assistant"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "message 1 of its messages has the role ['user']"),
        ({"messages": [{"role": "system", "content": ""}]}, "it does not end with an answer of the assistant"),
        ({"messages": [{"role": "user"}]}, "the content of message 1 of its messages is missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "the content of message 1 of its messages is not text"),
        ({"instruction": "Hi", "output": " \n"}, "the output is empty"),
        ({"instruction": "", "input": "x", "output": "Hello"}, "the instruction is empty"),
        (turns("user"), "it does not end with an answer of the assistant"),
        (turns("system"), "it does not end with an answer of the assistant"),
        (turns("user", "assistant", "user"), "it does not end with an answer of the assistant"),
        (turns("assistant", "user"), "message 1 is of the assistant, where one of the user must be"),
        (turns("system", "user", "user"), "message 3 is of the user, where one of the assistant must be"),
        (turns("user", "system", "assistant"), "message 2 is of the system, where one of the assistant must be"),
    ],
)  # fmt: skip
def test_a_record_that_is_no_conversation_is_refused_by_its_reason(record: dict, reason: str) -> None:
    with pytest.raises(BadRecordError) as refused:
        conversation_of(record)
    assert reason in str(refused.value)
