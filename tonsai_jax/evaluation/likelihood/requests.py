"""What a model is asked for in a task: a continuation to score after a context, as ids, and the answer to it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

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
    tokenizer: Tokenizer, pairs: Iterable[tuple[str, str]], *, leading_end_of_text: bool = True
) -> list[Request]:
    """The ids of (context, continuation) pairs, split as lm-eval splits them, so that scores can be compared.

    Both are normalized as one text, like the tokenizer's training text. White space at the end of the context belongs to the
    continuation. The whole is encoded; what is longer than the ids of the context alone is the continuation.

    Args:
      leading_end_of_text: whether the end-of-text id comes before a context, as before every document in training. lm-eval puts
        it there only where the tokenizer itself does. Before an empty context it always stands.
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
        requests.append(Request(lead + ids_of[context], ids_of[whole][len(ids_of[context]) :]))
    return requests
