"""Extends the vocabulary of a byte-pair tokenizer for one more language: byte-pair merging goes on from the tokens that it has.

No id changes. Every new token has a character of the new language's script, and new merges come after all old ones, so text
without such characters is encoded exactly as before. As in our own tokenizers, characters and Khmer orthographic syllables come
first (`tokenizer/units.py`), then the most frequent pairs.
"""

import copy
from collections import Counter
from typing import Any

import numpy as np
import regex

from tonsai_jax.adapt.base_tokenizer import BaseTokenizer, characters_of
from tonsai_jax.errors import UserError
from tonsai_jax.tokenizer.any_tokenizer import is_text
from tonsai_jax.tokenizer.bpe import MAX_TOKEN_LENGTH, MIN_FREQUENCY
from tonsai_jax.tokenizer.merging import END, learn_merges
from tonsai_jax.tokenizer.units import CutWords


def learn_tokens(base: BaseTokenizer, words: Counter[str], script: str, count: int) -> list[bytes]:
    """At most `count` tokens that the tokenizer does not have, in the order of their ids; fewer if the text has too few pairs.

    Args:
      base: the tokenizer.
      words: how often each of its words occurs in the text, from `base.words`.
      script: ISO 15924 code; every new token has a character of it, or is the first bytes of one.
    """
    own = characters_of(script)
    runs: Counter[str] = Counter()
    for word, times in words.items():
        for run in own.findall(base.text_of(word)):
            runs[run] += times
    known, cut = set(base.pieces), CutWords(runs)
    room = count // 2 + sum(unit in known for unit in cut.frequent(count // 2))  # what is known takes no id
    units = [unit for unit in cut.frequent(room) if unit not in known and base.can_spell(unit)]
    tokens = dict.fromkeys(units)
    extended = BaseTokenizer(base.folder, with_tokens(base, list(tokens)))
    symbols, counts = _symbols(extended, words, own)
    made = list(extended.pieces)  # by symbol
    sizes = np.array([len(piece) for piece in made], np.int32)
    for left, right, _ in learn_merges(symbols, counts, sizes, max_size=MAX_TOKEN_LENGTH, min_count=MIN_FREQUENCY):
        if len(tokens) == count:
            break
        made.append(made[left] + made[right])
        if made[-1] not in known:
            tokens[made[-1]] = None
    return list(tokens)


def with_tokens(base: BaseTokenizer, tokens: list[bytes]) -> dict[str, Any]:
    """The content of a tokenizer.json with more tokens, whose ids come after all ids that the tokenizer has.

    Each gets all merges of two tokens into it, so that every encoder finds it; a merge into an old token that has become
    possible through a new one comes right after the old token's other merges, where tiktoken would apply it.

    Raises `UserError` if an id would change: then the tokenizer cannot be extended.
    """
    content = copy.deepcopy(base.content)
    model = content["model"]
    # A special token that only the list of added tokens has would get another id when `tokenizers` reads the larger vocabulary.
    vocabulary: dict[str, int] = model["vocab"]
    for added in content.get("added_tokens", []):
        vocabulary.setdefault(added["content"], added["id"])
    first = max(base.ids.values()) + 1
    vocabulary |= {base.spell(token): first + number for number, token in enumerate(tokens)}
    is_text_merge = bool(model["merges"]) and isinstance(model["merges"][0], str)
    old = [tuple(merge.split(" ")) if is_text_merge else tuple(merge) for merge in model["merges"]]
    last = {left + right: place for place, (left, right) in enumerate(old)}
    after: dict[int, list[tuple[str, str]]] = {}
    end = len(old)
    new = set(tokens)
    for piece in (*base.pieces, *tokens):
        for parts in base.cuts(piece):
            if not {piece, *parts}.isdisjoint(new):
                merge = base.spell(parts[0]), base.spell(parts[1])
                place = end if piece in new else last.get(base.spell(piece))
                if place is not None and merge[0] in vocabulary and merge[1] in vocabulary:
                    after.setdefault(place, []).append(merge)
    merges = [merge for place in range(end + 1) for merge in (*old[place : place + 1], *after.get(place, []))]
    model["merges"] = [" ".join(merge) if is_text_merge else list(merge) for merge in merges]
    extended = BaseTokenizer(base.folder, content).ids
    if changed := [token for token, id in base.ids.items() if extended.get(token) != id]:
        raise UserError(
            f"{base.folder}: cannot be extended, because {len(changed)} ids would change (the first: {changed[0]!r}); train a "
            "new tokenizer with `tonsai train-tokenizer`, which can replace it"
        )
    return content


def _symbols(base: BaseTokenizer, words: Counter[str], own: regex.Pattern[str]) -> tuple[np.ndarray, np.ndarray]:
    """The words as `learn_merges` takes them: symbols and counts, each int32 (n,); words without the script left out.

    A symbol is an id. Tokens that are no whole characters, or have no character of the script, become `END`, so that nothing is
    joined with them; but a space or a sign may stand at the beginning of a word.
    """
    texts = [piece.decode() if is_text(piece) else "" for piece in base.pieces]
    is_own = [bool(own.search(text)) for text in texts]
    is_sign = [len(text) == 1 and not text.isalnum() for text in texts]
    stream, counts = [END], [0]
    for word, times in words.items():
        if own.search(base.text_of(word)):
            ids = base.tokenize(word)
            stream += [id if is_own[id] or (is_sign[id] and not place) else END for place, id in enumerate(ids)]
            stream.append(END)
            counts += [times] * (len(ids) + 1)
    return np.array(stream, np.int32), np.array(counts, np.int32)
