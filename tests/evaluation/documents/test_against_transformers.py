"""Bits per byte of an export, computed by `transformers` alone: its tokenizer, its model, a loop over windows. Ours are equal."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.made_once import MadeOnce
from tests.support.open_tokenizers import llama2
from tests.support.tiny_model import ENGLISH, KHMER, config_with, random_params
from tonsai_jax.evaluation.documents.scorer import score_documents
from tonsai_jax.huggingface.export import export
from tonsai_jax.inference.load import LanguageModel, load_model
from tonsai_jax.model.presets import preset
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

# Clean texts, which no normalization changes: one word, one sentence, and stories longer than the context of 64 tokens.
DOCUMENTS = [KHMER, ENGLISH, "កម្ពុជា", *stories("km", 1, seed=4), *stories("en", 1, seed=4)]


def tokenizer_of(kind: str, made_once: MadeOnce, folder: Path) -> Tokenizer:
    if kind == "llama2":
        return Tokenizer.from_folder(llama2(folder))

    def train(folder: Path) -> None:
        texts = [Example(text, language) for language in ("km", "en") for text in stories(language, 50, seed=1)]
        train_tokenizer(texts, vocab_size=600, output_dir=folder, model_type=kind)

    return Tokenizer.from_folder(made_once(f"evaluation-{kind}", train))


def their_nats(torch: Any, model: Any, ids: list[int], seq_len: int, stride: int) -> float:
    """The loss of every id but the first, from windows as the documentation of transformers makes them, but of inputs."""
    nats, done = 0.0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + seq_len, len(ids) - 1)
        if end <= done:
            break
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:end]])).logits[0].double()
        log_p = torch.log_softmax(logits[done - begin :], dim=-1)
        wanted = torch.tensor(ids[done + 1 : end + 1])
        nats -= float(log_p[torch.arange(len(wanted)), wanted].sum())
        done = end
    return nats


@pytest.mark.parametrize(
    ("kind", "family", "strides"),
    [
        ("bpe", "gpt2", (64, 24)),
        pytest.param("unigram", "qwen3", (64, 40), marks=pytest.mark.full),
        pytest.param("llama2", "llama", (64,), marks=pytest.mark.full),
    ],
)
def test_bits_per_byte_are_those_that_transformers_gives_for_the_export(
    kind: str, family: str, strides: tuple[int, ...], made_once: MadeOnce, tmp_path: Path, hf: tuple[Any, Any]
) -> None:
    torch, transformers = hf
    tokenizer = tokenizer_of(kind, made_once, tmp_path / "tokenizer")
    config = config_with(**preset(family), vocab_size=tokenizer.vocab_size)
    ours = LanguageModel("run", config, random_params(config), tokenizer)
    folder = export(config, ours.params, tokenizer, tmp_path / "export")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids_of = {text: their_tokenizer(text, add_special_tokens=False)["input_ids"] for text in DOCUMENTS}
    assert max(map(len, ids_of.values())) > 3 * 64
    for stride in strides:
        scores = score_documents(ours, DOCUMENTS, stride=stride)
        again = score_documents(load_model(str(folder)), DOCUMENTS, stride=stride)
        for text, score, of_export in zip(DOCUMENTS, scores, again, strict=True):
            first = tokenizer.end_of_text_id
            nats = their_nats(torch, theirs, [first, *ids_of[text]], 64, stride)
            assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
            assert score.tokens == len(ids_of[text])
            assert of_export.nats == pytest.approx(score.nats, rel=1e-6)
            assert (of_export.tokens, of_export.bytes) == (score.tokens, score.bytes)
