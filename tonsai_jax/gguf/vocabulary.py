"""A tokenizer as GGUF stores it: llama.cpp encodes text from these values with its own code.

Byte-level BPE becomes the tokenizer model `gpt2`, with a name for the pattern that splits text into words: llama.cpp has its
patterns built in. Unigram becomes `plamo2`, the only one of llama.cpp's tokenizer models that searches for the best sum of scores
and writes unknown characters as bytes; `llama` merges greedily, and `t5` has no bytes. The facts are from src/llama-vocab.cpp of
llama.cpp (the version that llama-cpp-python 0.3.36 contains).
"""

import dataclasses
import json
import re
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.tokenizer.bpe import PATTERNS
from tonsai_jax.tokenizer.encoding import SPACE
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import UNKNOWN
from tonsai_jax.tokenizer.unigram import SCORE_STEP

NORMAL, UNKNOWN_TOKEN, CONTROL, BYTE = 1, 2, 3, 6
"""Token types of GGUF."""

_SIGNS_DIFFER = (
    "llama.cpp splits text nearly as this tokenizer does: ids can differ where a sign comes right before letters, as in don’t; "
    "a tokenizer trained with --pattern single-digits has no such difference"
)
# By pattern, llama.cpp's name for the one that is most like it, and what is different. Both keep letters and their marks
# together. `deepseek-v3` also groups three digits, but joins only ASCII signs to a word, and only to ASCII letters.
_PRE_TOKENIZERS = {
    PATTERNS["grouped-digits"]: ("deepseek-v3", (_SIGNS_DIFFER,)),
    PATTERNS["single-digits"]: ("qwen35", ()),
}
_NO_BOS = (
    "llama.cpp puts no end-of-text token before a prompt for a Unigram tokenizer: write <|endoftext|> there yourself "
    "(llama-cpp-python adds it)"
)
_TIES_DIFFER = (
    "where two splits of a text are equally good, llama.cpp can choose the other one; the text stays the same"
)
# `plamo2` multiplies a score by 10,000 and rounds it to a whole number, and never uses a token of -2000 or less.
_PLAMO2_STEP = 10_000
_NEVER = -10_000.0
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The values of the keys `tokenizer.ggml.*`.

    Attributes:
      model: the name of llama.cpp's code for this kind of tokenizer.
      pre: the name of its pattern; empty where the model has none.
      tokens: by id, the text of the token as llama.cpp spells it.
      types: by id, one of the token types of GGUF.
      scores: by id; None for BPE.
      merges: for BPE, pairs of tokens, the first that applies first, with a space between them.
      differences: lines for the user about what is different in llama.cpp; empty if nothing is.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str]
    differences: tuple[str, ...]


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer for llama.cpp; raises `UserError` for one that llama.cpp cannot represent."""
    path = tokenizer.folder / "tokenizer.json"
    if not tokenizer.is_ours:
        raise UserError(
            f"{path}: the tokenizer of an open model; llama.cpp itself knows those: run `tonsai export`, then "
            "convert_hf_to_gguf.py of llama.cpp on that folder (docs/export.md)"
        )
    content = json.loads(tokenizer.to_json())
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    if content["model"]["type"] == "Unigram":
        made = _unigram(content["model"], special, str(path))
    else:
        made = _bpe(content, special, str(path))
    if len(made.tokens) != tokenizer.vocab_size:
        raise UserError(
            f"{path}: {tokenizer.vocab_size - len(made.tokens)} tokens were added to it after training, which the GGUF export "
            "does not know; train a tokenizer with --special-tokens instead"
        )
    return made


def _bpe(content: dict[str, Any], special: set[str], path: str) -> Vocabulary:
    pattern = _pattern(content)
    if pattern not in _PRE_TOKENIZERS or content["normalizer"] is not None:
        raise UserError(
            f"{path}: llama.cpp has no pattern that splits text as this tokenizer does; train one with "
            "`tonsai train-tokenizer --model-type bpe`"
        )
    name, differences = _PRE_TOKENIZERS[pattern]
    tokens = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    return Vocabulary(
        model="gpt2",
        pre=name,
        tokens=tokens,
        types=[CONTROL if token in special else NORMAL for token in tokens],
        scores=None,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]],
        differences=differences,
    )


def _pattern(content: dict[str, Any]) -> str:
    """The regular expression whose matches are the words; empty if the text is split in another way."""
    steps = (content["pre_tokenizer"] or {}).get("pretokenizers", [])
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return ""
    return steps[0]["pattern"].get("Regex", "")


def _unigram(model: dict[str, Any], special: set[str], path: str) -> Vocabulary:
    tokens, types, scores = [], [], []
    for piece, score in model["vocab"]:
        steps = float(score) * SCORE_STEP
        if not steps.is_integer():
            raise UserError(
                f"{path}: the score of {piece!r} is not a multiple of 1/{SCORE_STEP}, so llama.cpp would round it; train a "
                "tokenizer with tonsai train-tokenizer"
            )
        kind = _kind(piece, special)
        types.append(kind)
        tokens.append(piece.replace(SPACE, " ") if kind == NORMAL else piece)
        # Rounded by `plamo2`, this is `steps` again, so sums of scores stay exact.
        scores.append(steps / _PLAMO2_STEP if kind == NORMAL else _NEVER)
    return Vocabulary(
        model="plamo2",
        pre="",
        tokens=tokens,
        types=types,
        scores=scores,
        merges=[],
        differences=(_NO_BOS, _TIES_DIFFER),
    )


def _kind(piece: str, special: set[str]) -> int:
    """The token type of a piece of Unigram."""
    if piece in special:
        return CONTROL
    if piece == UNKNOWN:
        return UNKNOWN_TOKEN
    return BYTE if _BYTE_PIECE.fullmatch(piece) else NORMAL
