"""An ensemble: the mean of the models' log-probabilities, normalized again."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.tiny_model import CONFIG, config_with, random_params
from tests.support.train_step import END, T, batch_of, one_device
from tonsai_jax.training.ensemble import make_ensemble_score_step
from tonsai_jax.training.state import model_graph
from tonsai_jax.training.step import LossSettings, make_score_step

OTHER = config_with(num_layers=1, d_model=48, position="rope", norm="rmsnorm", mlp="swiglu", tie_embeddings=False)
MODELS = [(CONFIG, random_params(CONFIG, 1)), (OTHER, random_params(OTHER, 2))]
BATCH = batch_of()


def scored(models, chunk_tokens=32):
    graphs = [model_graph(config, "xla") for config, _ in models]
    step = make_ensemble_score_step(graphs, vocab_size=CONFIG.vocab_size, chunk_tokens=chunk_tokens, end_of_text_id=END)
    return np.asarray(step([params for _, params in models], BATCH))


@pytest.mark.full
def test_one_model_has_its_own_score():
    for config, params in MODELS:
        alone = make_score_step(
            model_graph(config, "xla"), one_device(), loss=LossSettings(32, 0.0), end_of_text_id=END
        )
        np.testing.assert_array_equal(scored([(config, params)]), alone(params, BATCH))


@pytest.mark.full
def test_the_score_of_two_is_the_normalized_mean_of_their_log_probabilities_and_no_worse_than_the_mean_of_their_scores():
    inputs, targets = BATCH["tokens"][:, :-1].astype(np.int32), BATCH["tokens"][:, 1:].astype(np.int32)
    each = []
    for config, params in MODELS:
        model = nnx.merge(model_graph(config, "xla"), params)
        each.append(jax.nn.log_softmax(model.logits(model(inputs)[0])))
    geometric = np.exp(np.asarray(sum(each)) / 2)
    expected = np.log(geometric / geometric.sum(axis=-1, keepdims=True))
    both = scored(MODELS)
    assert both.shape == (len(inputs), T)
    np.testing.assert_allclose(both, np.take_along_axis(expected, targets[..., None], axis=-1)[..., 0], atol=1e-5)

    mean = (scored(MODELS[:1]) + scored(MODELS[1:])) / 2
    assert (both >= mean - 1e-6).all()  # at every token
    assert both.mean() > mean.mean() + 1e-3
