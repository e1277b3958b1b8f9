"""What a model is asked for in a task: a continuation to score after a context, as ids, and the answer to it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.prefix_rows import common_prefix
from tonsai_jax.tokenizer.loading import Tokenizer


class Request(NamedTuple):
    """A continuation to score: the ids before it, at least one, and its own."""

    context_ids: Sequence[int]
    continuation_ids: Sequence[int]


class LogLikelihood(NamedTuple):
    """The score of a continuation.

    Attributes:
      nats: ln of its probability after the context.
      is_greedy: whether each of its tokens is the likeliest one.
      tokens: how many it has.
    """

    nats: float
    is_greedy: bool
    tokens: int


def encode_pairs(
    tokenizer: Tokenizer,
    pairs: Iterable[tuple[str, str]],
    *,
    leading_end_of_text: bool = True,
    as_lm_eval: bool = False,
) -> list[Request]:
    """The ids of (context, continuation) pairs.

    Both are normalized as one text, like the tokenizer's training text, and encoded as one text. White space at the end of the
    context belongs to the continuation. Where ids end at the end of the context, the continuation begins there. Where one holds
    characters of both, as is common in Khmer, which has no spaces between words, the continuation begins at the first id in
    which the whole differs from the context alone: it holds all of its own text, and a few characters before it.

    Args:
      leading_end_of_text: whether the end-of-text id comes before a context, as before every document in training. lm-eval puts
        it there only where the tokenizer itself does. Before an empty context it always stands.
      as_lm_eval: split as lm-eval does, so that its scores are equal: after as many ids as the context alone has. Where an id
        holds characters of both texts, a part of the continuation is then not scored. Elsewhere both ways are the same.

    Raises `UserError` for a continuation without an id to score.
    """
    texts: list[tuple[str, str]] = []
    for context, continuation in pairs:
        stripped = context.rstrip()
        texts.append((stripped, stripped + context[len(stripped) :] + continuation))
    distinct = list(dict.fromkeys(text for pair in texts for text in pair))
    encoded = tokenizer.encode_batch([tokenizer.normalize_prompt(text) for text in distinct])
    ids_of = dict(zip(distinct, encoded, strict=True))
    requests = []
    for context, whole in texts:
        lead = [tokenizer.end_of_text_id] if leading_end_of_text or not context else []
        before, ids = ids_of[context], ids_of[whole]
        if not as_lm_eval:
            before = before[: common_prefix(before, ids)]
        if len(ids) <= len(before):
            raise UserError(
                f"the text {whole[len(context) :][:80]!r} adds no token after {context[-40:]!r}, so it cannot be scored"
                + ("; put a space between the two" if as_lm_eval else "")
            )
        # Without a token before it, the first one has nothing to be predicted from.
        requests.append(Request(lead + before or [tokenizer.end_of_text_id], ids[len(before) :]))
    return requests
