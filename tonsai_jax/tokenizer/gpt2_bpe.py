"""The byte-level BPE that most projects train: GPT-2's pattern for words, and merges of bytes. It is a baseline to compare with.

The pattern allows only letters in a word. The vowel signs and subscripts of Khmer are marks, so no token goes over one of them
to the next letter.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

MIN_FREQUENCY = 2  # the usual choice: a pair that occurs once is not merged


def train_gpt2_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], progress: bool) -> Tokenizer:
    """Trains a tokenizer with the `BpeTrainer` of `tokenizers`.

    The ids are, in this order: special tokens, the 256 bytes, then merged pairs, the most frequent first.

    Args:
      texts: the text to train on; read once.
      vocab_size: number of ids wanted; there are fewer if the text has too few pairs.
      special_tokens: tokens that stand for no text.
      progress: show the progress on stderr.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # GPT-2's pattern
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
