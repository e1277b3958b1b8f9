"""chrF++ of translations: how many runs of characters and words they share with the reference translations.

BLEU counts words, and Khmer puts no spaces between words: what BLEU would count depends on the program that cuts the words.
chrF++ needs no such program.
"""

from collections.abc import Sequence

import numpy as np

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.statistics import Estimate, bootstrap
from tonsai_jax.text.normalize import normalize


def chrf(outputs: Sequence[str], references: Sequence[str]) -> Estimate:
    """chrF++ of a corpus, 0 to 100, with an interval over its sentences.

    The value is that of sacrebleu's CHRF with word_order=2 (Popović, chrF++: words helping character n-grams, 2017). Both sides
    are normalized first, in the same way: Khmer that looks the same must be the same code points. The n-grams of a sentence are
    counted once; a resample of the bootstrap only adds up counts.

    Raises `UserError` for no sentences.
    """
    from sacrebleu.metrics import CHRF  # imported here: few commands score translations

    if not references:
        raise UserError("chrF++ needs at least one sentence; there is none")
    metric = CHRF(word_order=2)
    # Its public functions give the score of one corpus, and no counts; a test holds that both give the same score.
    counts_SxC = np.asarray(
        metric._extract_corpus_statistics(list(map(normalize, outputs)), [list(map(normalize, references))]), np.int64
    )

    def score(numbers_S: np.ndarray) -> float:
        return metric._compute_f_score(counts_SxC[numbers_S].sum(axis=0).tolist())

    return bootstrap(score, len(references))
