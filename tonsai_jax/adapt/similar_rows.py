"""New rows from the rows of similar tokens, after FOCUS (Dobler and de Melo 2023, https://arxiv.org/abs/2305.14481).

Similar are tokens that occur next to the same tokens. Static embeddings of all new tokens are made from the documents; a new row
is a weighted mean of the rows of carried-over tokens, with sparsemax of the cosine similarities as weights. FOCUS trains fastText
for the static embeddings; here they are the truncated SVD of positive pointwise mutual information, which factorizes nearly the
same matrix (Levy and Goldberg 2014) and needs no other package.
"""

from collections.abc import Iterable

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import svds

DIMENSIONS = 128
WINDOW = 4  # neighbors on each side that count
_BLOCK = 512  # rows whose similarities are in memory at once


def static_embeddings(texts: Iterable[list[int]], vocab_size: int, seed: int = 0) -> np.ndarray:
    """Static embeddings of tokens, float32 (vocab_size, dimensions), of length 1; zeros for a token that does not occur.

    Args:
      texts: the ids of each text.
      seed: of the start of the SVD.
    """
    parts = [np.array(ids, np.int32) for ids in texts]
    ids_N = np.concatenate(parts)
    text_N = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    pairs = scipy.sparse.csr_array((vocab_size, vocab_size), dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        inside = text_N[:-distance] == text_N[distance:]
        left, right = ids_N[:-distance][inside], ids_N[distance:][inside]
        pairs += scipy.sparse.coo_array((np.ones(len(left), np.float32), (left, right)), shape=pairs.shape).tocsr()
    pairs = (pairs + pairs.T).tocoo()
    totals_V = pairs.sum(axis=1)
    # Smoothed as in word2vec: rare neighbors would have too much information.
    context_V = totals_V**0.75 / max(np.sum(totals_V**0.75), 1)
    information = np.log(pairs.data / (totals_V[pairs.row] * context_V[pairs.col]))
    ppmi = scipy.sparse.csr_array((np.maximum(information, 0), (pairs.row, pairs.col)), shape=pairs.shape)
    count = min(DIMENSIONS, vocab_size - 1)
    if not ppmi.count_nonzero():
        return np.zeros((vocab_size, count), np.float32)
    start_V = np.random.default_rng(seed).random(vocab_size, np.float32)
    left_VxK, values_K, _ = svds(ppmi.astype(np.float32), k=count, v0=start_V)
    vectors_VxK = left_VxK * np.sqrt(values_K)
    lengths_Vx1 = np.linalg.norm(vectors_VxK, axis=1, keepdims=True)
    return np.where(totals_V[:, None] > 0, vectors_VxK / np.maximum(lengths_Vx1, 1e-12), 0).astype(np.float32)


def similar_weights(
    embeddings_VxK: np.ndarray, sources_V: np.ndarray, ids: np.ndarray, old_size: int, otherwise: scipy.sparse.csr_array
) -> scipy.sparse.csr_array:
    """The weights of the old rows in each new row: float32 (len(ids), old_size); each row adds up to 1.

    Args:
      embeddings_VxK: of the new tokens, from `static_embeddings`.
      sources_V: for every new id the old id that it continues, or -1.
      ids: the new ids whose rows are made.
      old_size: number of old ids.
      otherwise: the weights for new tokens that do not occur in the documents.
    """
    occurs_V = np.any(embeddings_VxK != 0, axis=1)
    anchors = np.flatnonzero((sources_V >= 0) & occurs_V)
    if not (len(anchors) and len(ids)):
        return otherwise
    blocks = []
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        weights = sparsemax(embeddings_VxK[block] @ embeddings_VxK[anchors].T)
        weights[~occurs_V[block]] = 0
        rows, columns = np.nonzero(weights)
        shape = (len(block), old_size)
        blocks.append(
            scipy.sparse.coo_array((weights[rows, columns], (rows, sources_V[anchors][columns])), shape=shape).tocsr()
        )
    missing_Nx1 = scipy.sparse.diags_array((~occurs_V[ids]).astype(np.float32))
    return (scipy.sparse.vstack(blocks) + missing_Nx1 @ otherwise).tocsr()


def sparsemax(scores_NxM: np.ndarray) -> np.ndarray:
    """The nearest point of the probability simplex to each row; most entries are exactly 0.

    Martins and Astudillo (2016), https://arxiv.org/abs/1602.02068, algorithm 1.
    """
    sorted_NxM = -np.sort(-scores_NxM, axis=1)
    sums_NxM = np.cumsum(sorted_NxM, axis=1) - 1
    counts_M = np.arange(1, scores_NxM.shape[1] + 1)
    support_N = np.count_nonzero(sorted_NxM * counts_M > sums_NxM, axis=1)
    threshold_N = sums_NxM[np.arange(len(scores_NxM)), support_N - 1] / support_N
    return np.maximum(scores_NxM - threshold_N[:, None], 0)
