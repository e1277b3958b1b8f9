"""Chat in a terminal: each line is a message, and the answer appears while it is generated."""

import contextlib
import sys
from collections.abc import Iterator

from tonsai_jax.chat.conversation import Message
from tonsai_jax.errors import UserError
from tonsai_jax.inference.chat import Chat
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.sampling import Sampling

HELP = """\
/reset         forget the conversation; the system prompt stays
/system TEXT   set the system prompt; without TEXT, remove it
/help          show these lines
/quit          end, as Ctrl-D does
Ctrl-C stops an answer. To send a text that begins with /, write a space before it."""


class Terminal:
    """One conversation on standard input and output.

    Answers go to standard output, everything else to standard error. Where standard input is no terminal, nobody reads a prompt
    and nobody can mend a mistake: there is no prompt, and an error ends the conversation.

    Args:
      chat: the model.
      max_new_tokens, sampling, seed: as for `Chat.reply`.
    """

    def __init__(self, chat: Chat, *, max_new_tokens: int, sampling: Sampling, seed: int) -> None:
        self._chat = chat
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._seed = seed
        self._system: list[Message] = []
        self._history: list[Message] = []

    def run(self, name: str) -> None:
        """Talks until the input ends, or until /quit. Raises `UserError` for a mistake in a message of a file or a pipe."""
        interactive = sys.stdin.isatty()
        if interactive:
            _note(f"{name}: write a message; /help shows the commands, Ctrl-D ends the chat")
        for line in _lines(interactive):
            word, _, rest = line.partition(" ")
            if line.strip() == "/quit":
                return
            try:
                if word.startswith("/"):
                    self._command(word, rest.strip())
                elif line.strip():
                    self._answer(line.strip())
            except UserError as error:
                if not interactive:
                    raise
                _note(f"error: {error}")
            if interactive:
                _note("")

    def _command(self, word: str, text: str) -> None:
        if word == "/help":
            _note(HELP)
        elif word == "/reset":
            self._history = []
            _note("(a new conversation)")
        elif word == "/system":
            self._system = [Message("system", text)] if text else []
            _note("(the system prompt is set)" if text else "(no system prompt)")
        else:
            raise UserError(f"{word}: no such command; /help shows them")

    def _answer(self, text: str) -> None:
        """Prints the answer, and adds it to the history with its question, unless it is empty."""
        question = Message("user", text)
        reply = self._chat.reply(
            [*self._system, *self._history, question],
            max_new_tokens=self._max_new_tokens,
            sampling=self._sampling,
            seed=self._seed,
        )
        if reply.left_out:
            _note(f"({count_of(reply.left_out, 'old message')} left out: the model's context is full)")
        answer, stopped = "", False
        try:
            for piece in reply:
                answer += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            reply.close()
            stopped = True
        print(flush=True)
        if answer.strip():
            self._history += [question, Message("assistant", answer)]
        if stopped:
            _note("(stopped)")
        elif reply.is_cut:
            _note(f"(cut after {count_of(self._max_new_tokens, 'token')}; --max-new-tokens sets the limit)")
        elif not answer.strip():
            _note("(the model ended its answer at once)")


def _lines(interactive: bool) -> Iterator[str]:
    if interactive:
        with contextlib.suppress(ImportError):  # some Pythons are built without it
            import readline  # noqa: F401  # gives `input` its line editing
    while True:
        try:
            yield input("> " if interactive else "")
        except EOFError:
            if interactive:
                _note("")  # the prompt's line is not complete
            return
        except UnicodeDecodeError:
            raise UserError(
                "standard input is not UTF-8 text; set the terminal to UTF-8, or save the file as UTF-8"
            ) from None
        except KeyboardInterrupt:
            if not interactive:
                raise
            _note("\n(Ctrl-D ends the chat)")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
