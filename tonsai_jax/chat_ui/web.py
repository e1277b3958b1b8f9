"""Chat on a local web page, with one model or two side by side. Nothing on it is loaded from the network."""

import base64
import dataclasses
import html
import importlib.util
import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tonsai_jax.chat.conversation import Conversation, Message
from tonsai_jax.errors import UserError
from tonsai_jax.inference.chat import Chat
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.sampling import Sampling

_FOLDER = Path(__file__).parent
_FONT = "Noto Sans Khmer of this page"  # a name of its own, so that no installed font is taken for it
_KHMER = "U+1780-17FF, U+19E0-19FF, U+200C-200D, U+25CC"
# Of each control that sets a field of `Sampling`: the field, the label, the least and the largest value, the step.
_CONTROLS = (
    ("temperature", "Temperature", 0, 2, 0.05),
    ("top_p", "Top-p", 0.01, 1, 0.01),
    ("top_k", "Top-k (0: all)", 0, 200, 1),
    ("min_p", "Min-p", 0, 1, 0.01),
    ("repetition_penalty", "Repetition penalty", 1, 2, 0.05),
)


def check(host: str, port: int) -> None:
    """Raises `UserError` where Gradio is not installed, or where no page can be served at this address."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("--web needs Gradio, which is not installed; run `uv sync --inexact --extra ui`")
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: must be a number from 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise UserError(
            f"the page cannot be served at {host}:{port} ({error.strerror}); choose another --port, or another --host"
        ) from None


def serve(
    chats: Sequence[tuple[str, Chat]], *, max_new_tokens: int, sampling: Sampling, seed: int, host: str, port: int
) -> None:
    """Serves the page until Ctrl-C; arguments as for `page`."""
    blocks = page(chats, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
    _, url, _ = blocks.launch(**launch_settings(), server_name=host, server_port=port, prevent_thread_lock=True)
    print(f"chat page: {url} (Ctrl-C ends it)", flush=True)
    blocks.block_thread()


def launch_settings() -> dict[str, Any]:
    """How Gradio shows a page."""
    import gradio

    fonts = [gradio.themes.Font(name) for name in (_FONT, "sans-serif")]
    return {
        "theme": gradio.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=fonts),
        "css": style(),
        "js": "() => { if (innerWidth < 768) document.querySelector('.sidebar .toggle-button').click(); }",
        "footer_links": [],
        "quiet": True,
        "share": False,
        "ssr_mode": False,
    }


def style() -> str:
    """The style sheet of the page, with the Khmer font in it."""
    faces = [
        f'@font-face {{ font-family: "{_FONT}"; font-weight: {weights}; unicode-range: {_KHMER}; '
        f"src: url(data:font/woff2;base64,{base64.b64encode((_FOLDER / 'fonts' / name).read_bytes()).decode()}); }}"
        for weights, name in (("100 500", "NotoSansKhmer-Regular.woff2"), ("501 900", "NotoSansKhmer-Bold.woff2"))
    ]
    return "\n".join([*faces, (_FOLDER / "style.css").read_text(encoding="utf-8")])


def answers(
    chats: Sequence[tuple[str, Chat]],
    conversations: Sequence[Conversation],
    text: str,
    *,
    system: str,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
) -> Iterator[tuple[str, list[Conversation]]]:
    """All models answer a message together: yields a note and the conversations, after each piece of the answers.

    Closing the iterator ends the answers. The note says what a reader must know about them; mostly it is empty.

    Args:
      conversations: of each model, without the system prompt.
      text: the message.
      system: the system prompt, or "".
      max_new_tokens, sampling, seed: as for `Chat.reply`.

    Raises `UserError` as `Chat.reply` does.
    """
    first = (Message("system", system),) if system.strip() else ()
    asked = [(*conversation, Message("user", text)) for conversation in conversations]
    replies = [
        chat.reply((*first, *_answered(conversation)), max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
        for (_, chat), conversation in zip(chats, asked, strict=True)
    ]
    written = [""] * len(chats)

    def so_far() -> list[Conversation]:
        return [(*before, Message("assistant", answer)) for before, answer in zip(asked, written, strict=True)]

    names = [f"{name}: " if len(chats) > 1 else "" for name, _ in chats]
    notes = [
        f"{name}{count_of(reply.left_out, 'old message')} left out, because the model's context is full"
        for name, reply in zip(names, replies, strict=True)
        if reply.left_out
    ]
    try:
        yield "; ".join(notes), so_far()
        for pieces in zip_longest(*replies, fillvalue=""):
            written = [answer + piece for answer, piece in zip(written, pieces, strict=True)]
            yield "; ".join(notes), so_far()
    finally:
        for reply in replies:
            reply.close()
    for name, reply, answer in zip(names, replies, written, strict=True):
        if reply.is_cut:
            notes.append(f"{name}cut after {count_of(max_new_tokens, 'token')}")
        elif not answer.strip():
            notes.append(f"{name}the model ended its answer at once")
    yield "; ".join(notes), so_far()


def _answered(conversation: Conversation) -> Conversation:
    """The conversation without questions that were answered with nothing."""
    nothing = {number for number, message in enumerate(conversation) if not message.content.strip()}
    return tuple(
        message for number, message in enumerate(conversation) if number not in nothing and number + 1 not in nothing
    )


def shown(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation for Gradio's Chatbot, which takes every text for HTML, and removes indentation in it."""
    return [
        {"role": message.role, "content": html.escape(message.content).replace("\n", "<br>")}
        for message in conversation
    ]


def page(chats: Sequence[tuple[str, Chat]], *, max_new_tokens: int, sampling: Sampling, seed: int) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
      chats: the models with their names; each answers every message, in a conversation of its own.
      max_new_tokens, sampling, seed: what the controls show first. Stop texts have no control.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported, and later
    import gradio

    longest = min(chat.context_length for _, chat in chats) - 1
    with gradio.Blocks(title="tonsai chat", analytics_enabled=False, fill_height=True, fill_width=True) as blocks:
        with gradio.Sidebar():
            gradio.Markdown("### Settings")
            system = gradio.Textbox(label="System prompt", lines=3, max_lines=10)
            limit = gradio.Slider(1, longest, max_new_tokens, step=1, label="Max new tokens")
            controls = [
                gradio.Slider(least, max(most, value), value, step=step, label=label)
                for name, label, least, most, step in _CONTROLS
                for value in (getattr(sampling, name),)
            ]
            random_seed = gradio.Number(seed, precision=0, label="Seed")
        with gradio.Row(elem_id="conversations", scale=1):
            views = [
                gradio.Chatbot(
                    label=name, render_markdown=False, buttons=[], height="100%", elem_classes="conversation"
                )
                for name, _ in chats
            ]
        note = gradio.HTML(visible=False)
        with gradio.Row(elem_id="message"):
            box = gradio.Textbox(
                placeholder="Write a message (Shift+Enter: new line)",
                show_label=False,
                max_lines=8,
                autofocus=True,
                submit_btn=True,
            )
            clear = gradio.Button("Clear", scale=0, min_width=90)
        state = gradio.State([()] * len(chats))

        def show(box: Any, line: str, conversations: Sequence[Conversation]) -> tuple[Any, ...]:
            note = gradio.update(value=f"<p>{html.escape(line)}</p>", visible=bool(line))
            return box, note, conversations, *map(shown, conversations)

        def ready() -> Any:
            return gradio.update(submit_btn=True, stop_btn=False)

        def send(
            text: str,
            conversations: list[Conversation],
            system: str,
            chosen_limit: int | None,
            chosen_seed: int | None,
            *settings: float | None,
        ) -> Iterator[tuple[Any, ...]]:
            if not text.strip():
                yield show(ready(), "", conversations)
                return
            answered = conversations
            # A box that was cleared gives None: what it showed first holds.
            chosen: dict[str, Any] = {
                name: value for (name, *_), value in zip(_CONTROLS, settings, strict=True) if value is not None
            }
            try:
                emptied = gradio.update(value="", submit_btn=False, stop_btn=True)
                for line, answered in answers(
                    chats,
                    conversations,
                    text.strip(),
                    system=system,
                    max_new_tokens=max_new_tokens if chosen_limit is None else chosen_limit,
                    sampling=dataclasses.replace(sampling, **chosen),
                    seed=seed if chosen_seed is None else chosen_seed,
                ):
                    yield show(emptied, line, answered)
                    emptied = gradio.skip()  # what is typed meanwhile stays
                yield show(ready(), line, answered)
            except UserError as error:  # the message stays in its box, to be mended
                yield show(ready(), f"not sent: {error}", conversations)
            except Exception as error:  # the page must not wait for ever for an answer that has ended
                traceback.print_exc()
                yield show(ready(), f"the answer failed: {type(error).__name__}: {error}", answered)

        def start_again() -> tuple[Any, ...]:
            return show(ready(), "", [()] * len(chats))

        outputs = [box, note, state, *views]
        sending = box.submit(
            send,
            [box, state, system, limit, random_seed, *controls],
            outputs,
            show_progress="minimal",
            show_progress_on=views[:1],
            api_visibility="private",
        )
        box.stop(ready, None, box, cancels=[sending], queue=False, api_visibility="private")
        clear.click(start_again, None, outputs, cancels=[sending], queue=False, api_visibility="private")
    return blocks
