"""Byte-level BPE that speaks Khmer.

What is unusual is the pattern that cuts text into words before merging. GPT-2's takes only letters for a
word, but Khmer's vowel signs and subscripts are marks: it cuts every Khmer word into pieces of one or two
characters, and no vocabulary, however large, can join them again. Here a word is letters with their marks.
"""

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tonsai_jax.tokenizer.loading import END_OF_TEXT

SMALLEST_VOCABULARY = 256 + 1  # every byte, and the end-of-text token

# English endings; a word, with one sign or space before it; up to three digits; signs; newlines; spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# In bytes: 16 Khmer letters. Khmer has no spaces between words; without a limit, set phrases become tokens.
MAX_TOKEN_LENGTH = 48
# A pair seen once teaches nothing; its place in the vocabulary only costs the model parameters.
MIN_FREQUENCY = 2


def train_bpe(texts: Iterator[str], vocab_size: int, progress: bool) -> Tokenizer:
    """Trains on `texts`, which are read once; `progress` shows the trainer's own bars."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_LENGTH,
        show_progress=progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
