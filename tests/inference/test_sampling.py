"""Drawing tokens: the settings mean what they mean in transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tonsai_jax.config import default_config, sampling
from tonsai_jax.errors import UserError
from tonsai_jax.inference.decoding import sample, scores
from tonsai_jax.sampling import Sampling


def draws(probabilities, count=4000, **settings):
    """How often each id is drawn."""
    logits = jnp.log(jnp.tile(jnp.asarray(probabilities), (count, 1)))
    ids = sample(logits, jax.random.split(jax.random.key(0), count), Sampling(**settings))
    return np.bincount(ids, minlength=len(probabilities)) / count


def scores_by_id(logits, seen, sampling):
    """The score of each id."""
    seen_BxV = jnp.zeros((1, len(logits)), bool).at[0, jnp.array(seen)].set(True)
    score_BxK, id_BxK = scores(jnp.asarray(logits)[None], sampling, seen_BxV)
    by_id = np.full(len(logits), -np.inf, np.float32)
    by_id[slice(None) if id_BxK is None else id_BxK[0]] = score_BxK[0]
    return by_id


def test_sampling_follows_the_probabilities_and_the_temperature():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    np.testing.assert_allclose(draws(probabilities, temperature=1.0, top_k=0), probabilities, atol=0.03)
    squared = probabilities**2 / (probabilities**2).sum()
    np.testing.assert_allclose(draws(probabilities, temperature=0.5, top_k=0), squared, atol=0.03)
    assert draws(probabilities, temperature=0)[0] == 1


def test_top_k_keeps_the_most_likely_in_proportion():
    np.testing.assert_allclose(draws([0.1, 0.5, 0.1, 0.3], temperature=1.0, top_k=2), [0, 5 / 8, 0, 3 / 8], atol=0.03)
    assert draws([0.1, 0.5, 0.1, 0.3], temperature=1.0, top_k=1)[1] == 1
    assert (draws([0.1, 0.5, 0.1, 0.3], temperature=1.0, top_k=99) > 0).all()  # more than there are


def test_top_p_keeps_the_fewest_that_reach_it():
    probabilities = [0.1, 0.5, 0.05, 0.35]
    np.testing.assert_allclose(
        draws(probabilities, temperature=1.0, top_k=0, top_p=0.8), [0, 10 / 17, 0, 7 / 17], atol=0.03
    )
    np.testing.assert_allclose(draws(probabilities, temperature=1.0, top_k=0, top_p=0.4), [0, 1, 0, 0])
    # After top-k, shares are of what top-k left: 0.5 / 0.85 = 0.59 alone reaches 0.55.
    np.testing.assert_allclose(draws(probabilities, temperature=1.0, top_k=2, top_p=0.55), [0, 1, 0, 0])


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8, "temperature": 1.5, "top_k": 6},
        {"min_p": 0.2},
        {"min_p": 0.05, "temperature": 2.0, "top_k": 0},  # min-p is of the heated probabilities
        {"top_k": 7, "top_p": 0.7, "min_p": 0.25},
        {"repetition_penalty": 2.0, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.1},
    ],
    ids=str,
)
def test_the_scores_are_those_of_transformers(settings):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = np.random.default_rng(0).normal(size=12).astype(np.float32) * 2
    seen = [0, 3, 3, 8]
    sampling = Sampling(**{"temperature": 1.0, "top_k": 0} | settings)
    expected, ids = torch.tensor(logits)[None], torch.tensor([seen])
    steps = [process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)]
    steps.append(process.TemperatureLogitsWarper(sampling.temperature))
    steps += [process.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    steps += [process.TopPLogitsWarper(sampling.top_p), process.MinPLogitsWarper(sampling.min_p)]
    for step in steps:
        expected = step(ids, expected)
    np.testing.assert_allclose(scores_by_id(logits, seen, sampling), expected[0].numpy(), rtol=1e-6)


def test_a_repetition_penalty_lowers_positive_and_negative_logits_also_for_greedy_decoding():
    greedy = Sampling(temperature=0, repetition_penalty=2.0)
    np.testing.assert_array_equal(scores_by_id([2.0, 1.5, -3.0, -1.0], [0, 2], greedy), [1.0, 1.5, -6.0, -1.0])


def test_min_p_of_1_leaves_the_most_likely():
    assert draws([0.2, 0.41, 0.39], temperature=1.0, top_k=0, min_p=1.0)[1] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan must be at least 0"),
        ({"top_k": -1}, "top_k=-1 must be at least 0"),
        ({"top_p": 0.0}, r"top_p=0.0 must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p=1.5 must be in \(0, 1\]"),
        ({"min_p": -0.1}, r"min_p=-0.1 must be in \[0, 1\]"),
        ({"min_p": float("nan")}, r"min_p=nan must be in \[0, 1\]"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty=inf must be above 0"),
        ({"stop": ("a", "")}, "must be texts of at least one character"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        Sampling(**settings)


def test_a_run_samples_with_the_same_defaults():
    assert sampling(default_config()) == Sampling()
