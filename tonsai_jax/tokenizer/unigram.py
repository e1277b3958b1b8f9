"""A Unigram model with byte fallback, trained by SentencePiece, that `tokenizers` encodes to the same ids.

Both libraries search for the split of a line with the best sum of scores. SentencePiece adds in 32 bits and `tokenizers` in 64,
so rounding would decide between splits that are equally good. Therefore all scores are multiples of 1/128: their sums are exact
in 32 bits up to 2^24 / 128 = 131,072, which a line reaches after about ten thousand pieces. Each line is encoded separately.

Decoding gives back the text except for U+2581, which SentencePiece writes for the space: it becomes a space.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.tokenizer.encoding import SPACE
from tonsai_jax.tokenizer.special_tokens import UNKNOWN

SMALLEST_VOCABULARY = 510  # bytes, ASCII, the unknown piece and some letters
SCORE_STEP = 128
# In characters. Khmer has no spaces between words, so without a limit whole phrases become pieces.
MAX_PIECE_LENGTH = 16
_LONGEST_LINE = 1 << 30  # bytes; by default SentencePiece drops lines of more than 4,192 bytes
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
# A score so low that `tokenizers` never reads the characters "<0x0A>" or "<unk>" in a text as that one piece.
_NEVER = -1024.0

_logger = logging.getLogger(__name__)


def train_unigram(
    texts: Iterator[str], vocab_size: int, special_tokens: Sequence[str], sentences: int
) -> tuple[Tokenizer, bytes]:
    """Trains a Unigram model.

    Args:
      texts: the text to train on, read once; each line is a sentence.
      vocab_size: number of ids wanted, special tokens included; a small corpus gives fewer.
      special_tokens: tokens that stand for no text.
      sentences: number of random lines to train on; 0 for all.

    Returns the model for `tokenizers`, and the content of SentencePiece's spm.model.
    Raises `UserError` if there is no text, or too little for the vocabulary.
    """
    lines = (line for text in texts for line in text.split("\n") if line.strip())
    first = next(lines, None)
    if first is None:
        raise UserError("there is no text to train a tokenizer on; check the input files or the dataset")
    trained = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)  # for the choice of the sentences
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain([first], lines),
            model_writer=trained,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # a small corpus gives fewer pieces
            byte_fallback=True,
            normalization_rule_name="identity",  # the default replaces zero-width spaces with spaces
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_by_unicode_script=True,
            split_by_number=True,
            max_sentencepiece_length=MAX_PIECE_LENGTH,
            max_sentence_length=_LONGEST_LINE,
            character_coverage=0.9999,  # rarer characters are written as bytes
            required_chars=_ASCII,
            input_sentence_size=sentences,
            shuffle_input_sentence=True,
            num_threads=8,  # the same on any machine: each thread adds its own sums, so the number of threads changes the result
            control_symbols=[*special_tokens],
            unk_id=len(special_tokens),
            unk_piece=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=0 if _logger.isEnabledFor(logging.INFO) else 2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"SentencePiece cannot train on this text ({reason}); give more text, or a smaller --vocab-size"
        ) from error
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # the class is created at import
    model.ParseFromString(trained.getvalue())
    for piece in model.pieces:
        if piece.type == piece.NORMAL:
            piece.score = round(piece.score * SCORE_STEP) / SCORE_STEP
    return _as_tokenizers(model, special_tokens), model.SerializeToString()


def _as_tokenizers(model: Any, special_tokens: Sequence[str]) -> Tokenizer:
    vocabulary = [(piece.piece, piece.score if piece.type == piece.NORMAL else _NEVER) for piece in model.pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=len(special_tokens), byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return tokenizer
