"""Generates text with a model: continues prompts, and gives the text piece by piece while it is generated."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tonsai_jax.errors import UserError
from tonsai_jax.inference.decoding import Decoder
from tonsai_jax.inference.text_stream import TextStream
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.sampling import Sampling
from tonsai_jax.tokenizer.loading import Tokenizer

BATCH_SIZE = 16  # prompts continued together; further prompts follow in the next batch


class Piece(NamedTuple):
    """Text that was added to the continuation of a prompt.

    Attributes:
      prompt: the index of the prompt.
      text: can be empty.
      new_tokens: 1, or 0 for the text that was held back until the end.
    """

    prompt: int
    text: str
    new_tokens: int


class Generator:
    """A model and its tokenizer, made ready to continue prompts; make it once and use it often.

    Args:
      model_config: of the model.
      params: nested dict of float32 arrays, on any devices.
      tokenizer: the tokenizer that the model was trained with.

    Attributes:
      tokenizer: as given.
      context_length: of the model, in tokens: a prompt and its continuation must fit into it.
    """

    def __init__(self, model_config: ModelConfig, params: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.context_length = model_config.context_length
        self._decoder = Decoder(model_config, params, min(tokenizer.vocab_size, model_config.vocab_size))

    def texts(self, prompts: Sequence[str], *, max_new_tokens: int, sampling: Sampling, seed: int) -> list[str]:
        """Returns the continuation of each prompt, without the prompt; see `stream` for arguments and errors."""
        texts = [""] * len(prompts)
        for piece in self.stream(prompts, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed):
            texts[piece.prompt] += piece.text
        return texts

    def stream(self, prompts: Sequence[str], *, max_new_tokens: int, sampling: Sampling, seed: int) -> Iterator[Piece]:
        """Continues each prompt as the beginning of a document; yields a piece for every new token, and one at each end.

        Prompts and stop texts are normalized like the tokenizer's training text. A piece holds no half character and no half
        orthographic syllable (`TextStream`). A continuation ends before one of the tokenizer's `end_ids`, before a stop text,
        after `max_new_tokens` tokens, or when the model's context is full. For an empty prompt the model starts a document of
        its own; its text begins after what the tokenizer puts before every text.

        Args:
          prompts: the texts to continue.
          max_new_tokens: the most tokens per prompt.
          sampling: how tokens are drawn, and the stop texts.
          seed: the same seed, prompts and settings give the same text.

        Raises:
          UserError: a prompt is not UTF-8, or it fills the model's context.
        """
        yield from self.stream_ids(
            self.prompt_ids(prompts), max_new_tokens=max_new_tokens, sampling=sampling, seed=seed
        )

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The ids that the model continues for each prompt; raises `UserError` for a prompt that is not UTF-8."""
        for number, prompt in enumerate(prompts, start=1):
            try:
                prompt.encode()
            except UnicodeEncodeError:  # Python turns bytes that are not UTF-8 on a command line into surrogates
                raise UserError(f"prompt {number} is not UTF-8 text; set the terminal or the file to UTF-8") from None
        # In training, documents follow an end-of-text token: after one, the model reads a prompt as the start of a document.
        return [
            [self.tokenizer.end_of_text_id, *ids]
            for ids in self.tokenizer.encode_batch(list(map(self.tokenizer.normalize_prompt, prompts)))
        ]

    def stream_ids(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, sampling: Sampling, seed: int
    ) -> Iterator[Piece]:
        """Continues the ids of each prompt, as `stream` does for texts; nothing is put before them."""
        normalize = self.tokenizer.normalize_prompt
        stop = [normalize(text) or text for text in sampling.stop]
        for start in range(0, len(prompts), BATCH_SIZE):
            batch = prompts[start : start + BATCH_SIZE]
            # In training the prefix follows the end-of-text token; after a prompt it was given with the prompt.
            prefixes = [self.tokenizer.prefix if len(ids) == 1 else "" for ids in batch]
            streams = [TextStream(self.tokenizer, stop, prefix) for prefix in prefixes]
            for step in self._decoder.generate(
                batch,
                end_ids=self.tokenizer.end_ids,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                seed=seed,
                first_number=start,
            ):
                for number, id in enumerate(step):
                    if id is not None and not streams[number].stopped:
                        yield Piece(start + number, streams[number].add(id), new_tokens=1)
                if all(id is None or stream.stopped for id, stream in zip(step, streams, strict=True)):
                    break
            for number, stream in enumerate(streams):
                if rest := stream.finish():
                    yield Piece(start + number, rest, new_tokens=0)
