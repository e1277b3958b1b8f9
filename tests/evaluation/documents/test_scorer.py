"""The score of a document: the log-probability of its normalized text, whatever else is scored with it."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.open_tokenizers import llama2
from tests.support.tiny_model import CONFIG, ENGLISH, KHMER, config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.bits_per_byte import Score
from tonsai_jax.evaluation.documents import scorer as scorer_module
from tonsai_jax.evaluation.documents.scorer import DocumentScorer, score_documents
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.model.presets import preset
from tonsai_jax.samples.stories import stories
from tonsai_jax.text.normalize import normalize
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph

DOCUMENTS = [KHMER, "a", ENGLISH * 4, "", "  two  spaces \r\n", *stories("km", 4, seed=3), *stories("en", 4, seed=3)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> LanguageModel:
    return LanguageModel("tiny", CONFIG, random_params(CONFIG), tokenizer)


def nats_by_hand(model: LanguageModel, text: str, seq_len: int, stride: int) -> float:
    """From the model's own logits, window by window."""
    ids = [model.tokenizer.end_of_text_id, *model.tokenizer.encode(text)]
    windows_NxT, places, wanted = np.zeros((60, seq_len), np.int32), [], []
    for target in range(1, len(ids)):
        number = max(0, -(-(target - seq_len) // stride))
        inputs = ids[number * stride : number * stride + seq_len]
        windows_NxT[number, : len(inputs)] = inputs
        places.append((number, target - 1 - number * stride))
        wanted.append(ids[target])
    decoder = nnx.merge(model_graph(model.model_config, "xla"), model.params)
    logits = jax.jit(lambda tokens: decoder.logits(decoder(tokens)[0]))(windows_NxT)
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    return -sum(log_p[number, place, id] for (number, place), id in zip(places, wanted, strict=True))


@pytest.mark.parametrize(("seq_len", "stride"), [(64, None), (32, 8)])
def test_a_score_is_the_log_probability_of_the_normalized_text(model: LanguageModel, seq_len, stride) -> None:
    scores = score_documents(model, DOCUMENTS[:5], seq_len=seq_len, stride=stride)
    for text, score in zip(DOCUMENTS, scores, strict=False):
        text = normalize(text)
        assert score.bytes == len(text.encode())
        assert score.tokens == len(model.tokenizer.encode(text))
        assert score.nats == pytest.approx(nats_by_hand(model, text, seq_len, stride or seq_len), rel=1e-5)


@pytest.mark.parametrize("stride", [None, 20])
def test_a_score_does_not_depend_on_the_other_documents_or_their_order(model: LanguageModel, stride) -> None:
    together = score_documents(model, DOCUMENTS, stride=stride)
    backwards = score_documents(model, DOCUMENTS[::-1], stride=stride)[::-1]
    for text, score, other in zip(DOCUMENTS, together, backwards, strict=True):
        [alone] = score_documents(model, [text], stride=stride)
        for same in (alone, other):
            assert same.nats == pytest.approx(score.nats, rel=1e-5)
            assert (same.tokens, same.bytes) == (score.tokens, score.bytes)


def test_a_document_without_text_has_no_score_and_keeps_its_place(model: LanguageModel) -> None:
    assert score_documents(model, []) == []
    assert score_documents(model, ["", "a", " \n"])[::2] == [Score(), Score()]


def test_the_bytes_of_tokens_are_the_bytes_of_the_text(model: LanguageModel) -> None:
    token_bytes = model.tokenizer.token_bytes()
    for text, score in zip(DOCUMENTS, score_documents(model, DOCUMENTS), strict=True):
        assert score.bytes == token_bytes[model.tokenizer.encode(normalize(text))].sum()


def test_what_a_tokenizer_puts_before_a_text_is_scored_but_is_no_byte_of_it(tmp_path: Path) -> None:
    """And without a known normalization the text stays as it is."""
    tokenizer = Tokenizer.from_folder(llama2(tmp_path / "model"))
    assert tokenizer.normalization is None
    config = config_with(**preset("llama"), vocab_size=tokenizer.vocab_size)
    model = LanguageModel("llama", config, random_params(config), tokenizer)
    text = " a\u200bb \r\n"
    [score] = score_documents(model, [text])
    assert score.bytes == len(text.encode()) == tokenizer.token_bytes()[tokenizer.encode(text)].sum() - 1
    assert score.nats == pytest.approx(nats_by_hand(model, text, 64, 64), rel=1e-5)
    assert score_documents(model, ["a\ud800"])[0].bytes == 1  # a lone surrogate has no UTF-8


def test_a_run_that_keeps_documents_apart_in_training_has_the_same_scores(model: LanguageModel) -> None:
    masked = dataclasses.replace(model, model_config=config_with(document_mask=True, attention="cudnn", remat="full"))
    assert score_documents(masked, DOCUMENTS) == score_documents(model, DOCUMENTS)


def test_documents_are_read_as_they_are_scored(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of any size can be scored."""
    monkeypatch.setattr(scorer_module, "_BUFFER_BATCHES", 1)
    monkeypatch.setattr(scorer_module, "_CHUNK_DOCUMENTS", 10)
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for read in itertools.count(1):  # noqa: B007
            yield KHMER

    scores = DocumentScorer(model, batch_size=1).scores(endless())
    found = dict(itertools.islice(scores, 100))
    assert len(found) == 100
    assert read < 140


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seq_len": 65}, "seq_len 65 must be between 1 and the model's context of 64 tokens"),
        ({"seq_len": 0}, "seq_len 0 must be between 1 and"),
        ({"stride": 0}, "stride 0 must be between 1 and the sequence length of 64 tokens"),
        ({"seq_len": 32, "stride": 33}, "stride 33 must be between 1 and the sequence length of 32 tokens"),
    ],
)
def test_windows_that_the_model_cannot_take_are_refused(model: LanguageModel, settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DocumentScorer(model, **settings)
