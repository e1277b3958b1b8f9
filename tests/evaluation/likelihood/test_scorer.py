"""Log-likelihoods of continuations: equal to those of each whole sequence computed alone."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.families import config_of
from tests.support.tiny_model import CONFIG, config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.requests import LogLikelihood, Request
from tonsai_jax.evaluation.likelihood.scorer import Scorer
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


def model_of(config: ModelConfig, tokenizer: Tokenizer) -> LanguageModel:
    return LanguageModel("tiny", config, random_params(config), tokenizer)


def alone(model: LanguageModel, requests: list[Request]) -> list[tuple[float, bool]]:
    """The plain computation: all of each sequence, all logits, then those of the continuation."""
    graph, length = model_graph(model.model_config, "xla"), model.model_config.context_length

    @jax.jit
    def log_probabilities(tokens_1xT: jax.Array) -> jax.Array:
        transformer = nnx.merge(graph, model.params)
        return jax.nn.log_softmax(transformer.logits(transformer(tokens_1xT)[0]))[0]

    scores = []
    for context, continuation in requests:
        ids = [*context, *continuation][-length - 1 :]
        tokens_1xT = np.zeros((1, length), np.int32)  # what follows a token does not change it
        tokens_1xT[0, : len(ids) - 1] = ids[:-1]
        logp_CxV = np.asarray(log_probabilities(tokens_1xT))[len(ids) - 1 - len(continuation) : len(ids) - 1]
        nats = sum(logp_V[id] for logp_V, id in zip(logp_CxV, continuation, strict=True))
        scores.append((float(nats), logp_CxV.argmax(axis=-1).tolist() == list(continuation)))
    return scores


def mixed_requests(config: ModelConfig) -> list[Request]:
    """Contexts that share nothing, something or all; continuations of one token and of many; one that must be cut."""
    rng = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return rng.integers(1, config.vocab_size, count).tolist()

    prefix = ids(9)
    requests = []
    for context in (prefix, [*prefix, *ids(12)], [*prefix, *ids(20)], ids(1), ids(40)):
        requests += [Request(context, ids(count)) for count in (1, 2, 7, 20)]
    return [*requests, Request(ids(60), ids(30)), Request(ids(3), ids(config.context_length)), requests[2]]


@pytest.mark.parametrize(
    "variant",
    [
        "gpt2",
        "llama, GQA, tied",
        pytest.param("qwen3", marks=pytest.mark.full),
        "gemma3",
        pytest.param("gemma3, stretched, unrolled", marks=pytest.mark.full),
        pytest.param("mixtral, top-2", marks=pytest.mark.full),
    ],
)
def test_scores_are_those_of_each_sequence_alone(variant: str, tokenizer: Tokenizer) -> None:
    model = model_of(config_of(variant), tokenizer)
    requests = mixed_requests(model.model_config)
    scores = Scorer(model).log_likelihoods(requests)
    expected = alone(model, requests)
    np.testing.assert_allclose([score.nats for score in scores], [nats for nats, _ in expected], atol=1e-4, rtol=0)
    assert [score.is_greedy for score in scores] == [is_greedy for _, is_greedy in expected]
    assert [score.tokens for score in scores] == [len(request.continuation_ids) for request in requests]


def test_the_likeliest_continuation_is_known_as_such(tokenizer: Tokenizer) -> None:
    model = model_of(CONFIG, tokenizer)
    scorer = Scorer(model)
    best = max(range(CONFIG.vocab_size), key=lambda id: scorer.log_likelihoods([Request([1, 2], [id])])[0].nats)
    scores = scorer.log_likelihoods([Request([1, 2], [best]), Request([1, 2], [(best + 1) % 300])])
    assert [score.is_greedy for score in scores] == [True, False]


def test_probabilities_of_all_ids_sum_to_one(tokenizer: Tokenizer) -> None:
    scores = Scorer(model_of(CONFIG, tokenizer)).log_likelihoods([Request([7, 8], [id]) for id in range(300)])
    assert sum(np.exp(score.nats) for score in scores) == pytest.approx(1.0, abs=1e-5)


def test_a_request_has_the_same_score_next_to_any_others(tokenizer: Tokenizer) -> None:
    scorer = Scorer(model_of(CONFIG, tokenizer))
    requests = mixed_requests(CONFIG)
    together = scorer.log_likelihoods(requests)
    by_itself = [scorer.log_likelihoods([request])[0] for request in requests[:6]]
    np.testing.assert_allclose([s.nats for s in together[:6]], [s.nats for s in by_itself], atol=1e-4, rtol=0)


def test_an_empty_continuation_is_certain(tokenizer: Tokenizer) -> None:
    scorer = Scorer(model_of(CONFIG, tokenizer))
    assert scorer.log_likelihoods([Request([1], [])]) == [LogLikelihood(0.0, True, 0)]
    assert scorer.log_likelihoods([]) == []


def test_a_continuation_longer_than_the_context_is_refused(tokenizer: Tokenizer) -> None:
    scorer = Scorer(model_of(config_with(context_length=16), tokenizer))
    with pytest.raises(UserError, match="continuation 1 has 17 tokens, more than the model's context_length=16"):
        scorer.log_likelihoods([Request([1], [2] * 17)])


def test_the_log_says_how_many_contexts_were_cut(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    scorer = Scorer(model_of(config_with(context_length=16), tokenizer))
    scorer.log_likelihoods([Request([1] * 15, [2, 3]), Request([1] * 16, [2, 3])], name="made")
    message = "made: 1 of 2 contexts do not fit into the model's context of 16 tokens and lost their beginning"
    assert caplog.messages == [message]
