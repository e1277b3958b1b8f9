"""A generator that answers by a rule instead of by a model."""

from collections.abc import Callable, Iterator, Sequence

from tonsai_jax.inference.generate import Generator, Piece
from tonsai_jax.inference.load import LanguageModel


class Answering(Generator):
    """Continues each prompt by `answer`, a function of the prompt's text.

    Attributes:
      prompts: the texts that it was asked to continue.
      batches: how many it was asked to continue at once, and the most tokens that each got.
    """

    def __init__(self, model: LanguageModel, answer: Callable[[str], str]) -> None:
        self.tokenizer, self.context_length = model.tokenizer, model.model_config.context_length
        self.answer = answer
        self.prompts: list[str] = []
        self.batches: list[tuple[int, int]] = []

    def stream_ids(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, sampling, seed) -> Iterator[Piece]:
        assert (sampling.temperature, sampling.stop) == (0, ("\n",))
        self.batches.append((len(prompts), max_new_tokens))
        for number, ids in enumerate(prompts):
            text = self.tokenizer.decode(list(ids)).removeprefix("<|endoftext|>")
            self.prompts.append(text)
            for character in self.answer(text):
                yield Piece(number, character, 1)
