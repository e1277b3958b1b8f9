"""The page of `tonsai chat --web`: what it shows of the models' answers, and that it needs nothing from the network."""

import base64
import importlib.util
import itertools
import re
import socket
import time

import pytest

from tests.support.browser import CHROMIUM, QUIET, needs_chromium
from tests.support.tiny_chat import WrittenAnswers, chat_of, chat_tokenizer
from tests.support.tiny_model import KHMER
from tonsai_jax.chat.conversation import Message
from tonsai_jax.chat.template import ChatTemplate
from tonsai_jax.chat_ui import web
from tonsai_jax.errors import UserError
from tonsai_jax.inference.chat import Chat, Reply
from tonsai_jax.sampling import Sampling

GREEDY = Sampling(temperature=0)
EARLIER = (Message("user", "one"), Message("assistant", "two"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return chat_tokenizer(tmp_path_factory.mktemp("tokenizer") / "chat")


@pytest.fixture(scope="module")
def chats(tokenizer):
    return [("runs/a", chat_of(tokenizer)), ("runs/b", chat_of(tokenizer))]


def answers(chats, conversations, text="three", *, system="", new=20):
    return web.answers(chats, conversations, text, system=system, max_new_tokens=new, sampling=GREEDY, seed=0)


def test_all_models_answer_a_message_each_in_its_own_conversation(chats, tokenizer, monkeypatch):
    model = WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    states = list(answers(chats, [EARLIER, ()], system="Be kind."))
    question, system = Message("user", "three"), Message("system", "Be kind.")
    notes, conversations = zip(*states, strict=True)
    assert set(notes) == {""}
    assert conversations[0] == [(*EARLIER, question, Message("assistant", "")), (question, Message("assistant", ""))]
    assert conversations[-1] == [
        (*EARLIER, question, Message("assistant", "yes")),
        (question, Message("assistant", "yes")),
    ]
    assert len(states) > 3
    template = ChatTemplate.of(tokenizer)
    assert model.prompts == [template.prompt([system, *EARLIER, question]), template.prompt([system, question])]


def test_answers_that_are_closed_ask_no_model_for_more(chats, tokenizer, monkeypatch):
    model = WrittenAnswers(monkeypatch, tokenizer.encode(KHMER))
    replies: list[Reply] = []
    reply = Chat.reply

    def kept(*args, **settings):  # so that a reply ends because it is closed, and not because nobody has it
        replies.append(reply(*args, **settings))
        return replies[-1]

    monkeypatch.setattr(Chat, "reply", kept)
    stream = answers(chats, [(), ()])
    list(itertools.islice(stream, 3))
    stream.close()
    given = model.given
    assert [list(each) for each in (stream, *replies)] == [[], [], []]
    assert model.given == given < 10


def test_a_question_that_was_stopped_before_its_answer_is_not_in_the_next_prompt(chats, tokenizer, monkeypatch):
    model = WrittenAnswers(monkeypatch, [])
    stopped = (*EARLIER, Message("user", "stopped"), Message("assistant", ""))
    list(answers(chats[:1], [stopped]))
    assert model.prompts == [ChatTemplate.of(tokenizer).prompt([*EARLIER, Message("user", "three")])]


def test_the_note_says_what_a_model_does_not_see_and_how_an_answer_ended(chats, tokenizer, monkeypatch):
    WrittenAnswers(monkeypatch, tokenizer.encode("abc"))
    long = EARLIER * 12
    assert list(answers(chats, [long, ()], new=3))[-1][0] == (
        "runs/a: 2 old messages left out, because the model's context is full; "
        "runs/a: cut after 3 tokens; runs/b: cut after 3 tokens"
    )
    WrittenAnswers(monkeypatch, [])
    assert list(answers(chats[:1], [()]))[-1][0] == "the model ended its answer at once"


def test_text_is_shown_as_it_is_and_never_read_as_html():
    [message] = web.shown((Message("user", '<b>ក & "x"</b>\n  if a<b'),))
    assert message == {"role": "user", "content": "&lt;b&gt;ក &amp; &quot;x&quot;&lt;/b&gt;<br>  if a&lt;b"}


def test_the_khmer_fonts_are_in_the_style_sheet_with_their_license():
    style = web.style()
    fonts = re.findall(r"url\(data:font/woff2;base64,([^)]*)\)", style)
    assert [base64.b64decode(font)[:4] for font in fonts] == [b"wOF2"] * 2
    assert len(re.findall(r"url\(", style)) == 2  # and nothing from elsewhere
    assert "Open Font License" in (web._FOLDER / "fonts" / "OFL.txt").read_text().title()


def test_without_gradio_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="--web needs Gradio, which is not installed; run `uv sync --inexact --extra ui`"
    ):
        web.check("127.0.0.1", 7860)


def test_an_address_where_no_page_can_be_served_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot be served at 127.0.0.1:{port} \\(Address already in use\\)"):
            web.check("127.0.0.1", port)
    with pytest.raises(UserError, match="--port 70000: must be a number from 1 to 65535"):
        web.check("127.0.0.1", 70_000)


# With Gradio


@pytest.fixture
def page(chats):
    pytest.importorskip("gradio", reason="install it with `uv sync --inexact --extra ui`")
    return web.page(chats, max_new_tokens=20, sampling=GREEDY, seed=0)


@pytest.mark.full  # Gradio takes seconds to load
def test_a_message_empties_its_box_and_one_that_is_refused_stays_in_it(page, tokenizer, monkeypatch):
    WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    send = next(function.fn for function in page.fns.values() if function.name == "send")
    settings = ("", 20, 0, 0.0, 1.0, 0, 0.0, 1.0)  # system prompt, limit, seed, the controls
    states = list(send("one", [EARLIER, ()], *settings))
    (first, *_), (last, note, conversations, *views) = states[0], states[-1]
    assert (first["value"], first["submit_btn"], first["stop_btn"]) == ("", False, True)
    assert ("value" in last, last["submit_btn"], last["stop_btn"], note["visible"]) == (False, True, False, False)
    assert [conversation[-1].content for conversation in conversations] == ["yes", "yes"]
    assert views == [web.shown(conversation) for conversation in conversations]

    [(box, note, conversations, *_)] = send("x" * 200, [EARLIER, ()], *settings)
    assert "value" not in box
    assert note["value"].startswith("<p>not sent: the message has 204 tokens")
    assert conversations == [EARLIER, ()]
    [(_, note, conversations, *_)] = send("  ", [EARLIER, ()], *settings)
    assert (note["visible"], conversations) == (False, [EARLIER, ()])


@pytest.mark.full
def test_a_cleared_setting_is_its_default_and_after_any_failure_the_box_is_ready_again(page, tokenizer, monkeypatch):
    model = WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    send = next(function.fn for function in page.fns.values() if function.name == "send")
    cleared = ("", None, None, None, None, None, None, None)  # system prompt, limit, seed, the controls
    given, reply, written = [], Chat.reply, model._generate

    def kept(*args, **settings):
        given.append(settings)
        return reply(*args, **settings)

    monkeypatch.setattr(Chat, "reply", kept)
    *_, (box, note, conversations, *_) = send("one", [EARLIER, ()], *cleared)
    assert given == [{"max_new_tokens": 20, "sampling": GREEDY, "seed": 0}] * 2
    assert (box["submit_btn"], note["visible"]) == (True, False)

    def fails(*args):
        yield from itertools.islice(written(*args), 1)
        raise MemoryError("no room")

    monkeypatch.setattr(model, "_generate", fails)
    *_, (box, note, conversations, *_) = send("one", [EARLIER, ()], *cleared)
    assert (box["submit_btn"], box["stop_btn"]) == (True, False)
    assert note["value"] == "<p>the answer failed: MemoryError: no room</p>"
    assert [conversation[-1].role for conversation in conversations] == [
        "assistant",
        "assistant",
    ]  # what there is stays


@pytest.mark.full
def test_the_page_sends_nothing_and_loads_nothing_from_elsewhere(page):
    assert page.analytics_enabled is False
    theme = web.launch_settings()["theme"]
    assert theme._stylesheets == []
    assert web.launch_settings()["share"] is False


@needs_chromium
@pytest.mark.full
def test_khmer_is_typed_streamed_stopped_and_cleared_in_a_browser(page, tokenizer, monkeypatch, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="install playwright for this test")
    model = WrittenAnswers(monkeypatch, tokenizer.encode(KHMER) * 20)
    quick = model._generate

    def slowly(*args):
        for ids in quick(*args):
            time.sleep(0.01)
            yield ids

    monkeypatch.setattr(model, "_generate", slowly)
    _, url, _ = page.launch(**web.launch_settings(), server_name="127.0.0.1", prevent_thread_lock=True)
    requests = []
    try:
        with playwright.sync_playwright() as driver:
            context = driver.chromium.launch_persistent_context(
                tmp_path, executable_path=CHROMIUM, headless=True, args=QUIET
            )
            tab = context.new_page()
            tab.on("request", lambda request: requests.append(request.url))
            tab.goto(url)

            def shown(role):
                return tab.locator(f".conversation .{role} .md").all_inner_texts()

            tab.locator("#message textarea").fill(KHMER[:13])
            tab.keyboard.press("Enter")
            tab.locator("button.stop-button").wait_for()
            tab.wait_for_function("document.querySelectorAll('.bot .md')[1]?.innerText.length > 20")
            assert shown("user") == [KHMER[:13]] * 2
            tab.locator("button.stop-button").click()
            tab.locator("button.submit-button").wait_for()
            given, said = model.given, shown("bot")
            time.sleep(0.5)
            assert (model.given, shown("bot")) == (given, said)
            assert len(said[0]) < len(KHMER) * 20
            assert KHMER.startswith(said[0][: len(KHMER)])
            assert tab.evaluate(
                "[...document.fonts].some(font => font.family.includes('Khmer') && font.status == 'loaded')"
            )
            tab.get_by_role("button", name="Clear", exact=True).last.click()
            tab.wait_for_function("document.querySelectorAll('.conversation .md').length == 0")
            context.close()
    finally:
        page.close()
    assert requests
    assert not [address for address in requests if not address.startswith((url, "data:", "blob:"))]
