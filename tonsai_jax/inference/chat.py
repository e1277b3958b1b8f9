"""Chat with a model: its answer to a conversation, piece by piece while it is generated."""

from collections import abc
from collections.abc import Iterable, Sequence

from tonsai_jax.chat.conversation import Message
from tonsai_jax.chat.template import ChatTemplate, TemplateError
from tonsai_jax.errors import UserError
from tonsai_jax.inference.generate import Generator, Piece
from tonsai_jax.sampling import Sampling

_LONGEST_ANSWER = 512  # tokens, where nobody says how long an answer may be


class Reply:
    """An answer. It is generated while somebody iterates over its pieces of text; some of them are empty.

    Attributes:
      left_out: the number of oldest messages that the model does not see, because they do not fit into its context.
      is_cut: whether `max_new_tokens` ended the answer; False while it is not complete.
    """

    def __init__(self, pieces: Iterable[Piece], *, left_out: int, max_new_tokens: int) -> None:
        self.left_out = left_out
        self.is_cut = False
        self._texts = self._generate(pieces, max_new_tokens)

    def __iter__(self) -> abc.Generator[str, None, None]:
        return self._texts

    def close(self) -> None:
        """Ends the answer here: the model computes nothing more for it."""
        self._texts.close()

    def _generate(self, pieces: Iterable[Piece], max_new_tokens: int) -> abc.Generator[str, None, None]:
        tokens, has_begun = 0, False
        for piece in pieces:
            tokens += piece.new_tokens
            text = piece.text if has_begun else piece.text.lstrip()  # as templates strip the answers before
            has_begun = has_begun or bool(text)
            yield text
        self.is_cut = tokens == max_new_tokens


class Chat:
    """A model that answers messages; make it once and use it for many conversations.

    Args:
      generator: the model with its tokenizer.

    Attributes:
      context_length: of the model, in tokens: a conversation and the next answer must fit into it.
      max_new_tokens: a good limit for an answer: half of the context, and at most 512.

    Raises `UserError` if the tokenizer has no chat template.
    """

    def __init__(self, generator: Generator) -> None:
        self.context_length = generator.context_length
        self.max_new_tokens = min(_LONGEST_ANSWER, self.context_length // 2)
        self._template = ChatTemplate.of(generator.tokenizer)
        self._normalize = generator.tokenizer.normalize_prompt
        self._generator = generator

    def reply(self, messages: Sequence[Message], *, max_new_tokens: int, sampling: Sampling, seed: int) -> Reply:
        """The answer to the last message. Texts are normalized like the tokenizer's training text.

        The oldest messages are left out, a question together with its answer, if the conversation is longer than the model's
        context without `max_new_tokens`; a system message stays. The answer ends as a text of `Generator.stream` does.

        Args:
          messages: the conversation, which ends with a message of the user.
          max_new_tokens: the most tokens of the answer.
          sampling: how tokens are drawn, and the stop texts.
          seed: the same seed, messages and settings give the same answer.

        Raises:
          UserError: the limit or the last message is too long, or the chat template refuses the conversation.
        """
        self.check_limit(max_new_tokens)
        normalized = [Message(message.role, self._normalize(message.content)) for message in messages]
        ids, left_out = self._prompt(normalized, self.context_length - max_new_tokens)
        pieces = self._generator.stream_ids([ids], max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
        return Reply(pieces, left_out=left_out, max_new_tokens=max_new_tokens)

    def check_limit(self, max_new_tokens: int) -> None:
        """Raises `UserError` unless the context has room for an answer of so many tokens and for a message."""
        if not 0 < max_new_tokens < self.context_length:
            raise UserError(
                f"max_new_tokens={max_new_tokens} must be at least 1, and less than the model's context_length="
                f"{self.context_length}, to which the messages belong too"
            )

    def _prompt(self, messages: Sequence[Message], room: int) -> tuple[list[int], int]:
        """The ids of as many of the last messages as fit into `room` tokens, and the number of those that do not."""
        system = [message for message in messages[:1] if message.role == "system"]
        turns = messages[len(system) :]
        ids: list[int] = []
        for start in (number for number, message in enumerate(turns) if message.role == "user"):
            try:
                ids = self._template.prompt([*system, *turns[start:]])
            except TemplateError as error:
                raise UserError(f"the model's chat template refuses the conversation: {error}") from None
            if len(ids) <= room:
                return ids, start
        what = "the message and the system prompt have" if system else "the message has"
        raise UserError(
            f"{what} {len(ids):,} tokens, and only {room:,} fit: the model's context_length={self.context_length} less "
            f"max_new_tokens={self.context_length - room}; shorten it, or lower max_new_tokens"
        )
