"""A small model that chats, and one whose answers a test writes itself."""

from pathlib import Path

import pytest

from tests.support.tiny_model import ENGLISH, KHMER, config_with, random_params
from tonsai_jax.inference.chat import Chat
from tonsai_jax.inference.decoding import Decoder
from tonsai_jax.inference.generate import Generator
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

CONFIG = config_with(vocab_size=320, context_length=128)
PARAMS = random_params(CONFIG)


def chat_tokenizer(folder: Path) -> Tokenizer:
    """320 ids, with all special tokens and a chat template."""
    train_tokenizer([Example(KHMER, "km"), Example(ENGLISH, "en")] * 5, vocab_size=320, output_dir=folder)
    return Tokenizer.from_folder(folder)


def chat_of(tokenizer: Tokenizer) -> Chat:
    return Chat(Generator(CONFIG, PARAMS, tokenizer))


class WrittenAnswers:
    """Takes the place of every model: it gives these ids one by one, for all prompts the same.

    Attributes:
      prompts: the ids that it was asked to continue.
      given: how many ids it has given.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> None:
        self.ids = ids
        self.prompts: list[list[int]] = []
        self.given = 0
        monkeypatch.setattr(Decoder, "generate", lambda _, prompts, *, end_ids, **__: self._generate(prompts, end_ids))

    def _generate(self, prompts, end_ids):
        self.prompts.extend(prompts)
        for id in self.ids:
            self.given += 1
            if id in end_ids:
                return
            yield [id]
