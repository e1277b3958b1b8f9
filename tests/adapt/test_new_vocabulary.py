"""A model in another vocabulary: old rows are carried over, new ones are made as asked, the rest of the model is untouched."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.sparse
from flax import nnx

from tests.adapt.bases import ENGLISH_TEXT, KHMER_TEXT, make_base
from tests.support.console import tonsai, without_progress
from tests.support.open_tokenizers import gemma3
from tests.support.tiny_model import config_with, random_params
from tonsai_jax.adapt.carried import carried_over
from tonsai_jax.adapt.distilled_rows import DistillSettings, Model, distill
from tonsai_jax.adapt.extend import extend_tokenizer
from tonsai_jax.adapt.new_vocabulary import INITS, with_new_vocabulary
from tonsai_jax.adapt.similar_rows import similar_weights, sparsemax, static_embeddings
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.pretrained import open_pretrained
from tonsai_jax.model.presets import preset
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import END_OF_TEXT, PAD
from tonsai_jax.tokenizer.training import train_tokenizer
from tonsai_jax.training.state import model_graph

QUICK = DistillSettings(steps=4, batch_size=2, seq_len=32)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """English ones of ours and of GPT-2's kind, each extended with Khmer, and one of ours for both languages."""
    folder = tmp_path_factory.mktemp("tokenizers")
    examples = [Example(text, "km") for text in KHMER_TEXT]
    for kind in ("ours", "gpt2"):
        make_base(kind, folder / kind)
        extend_tokenizer(folder / kind, examples, new_tokens=200, language="km", output_dir=folder / f"{kind}_extended")
    both = [*examples, *(Example(text, "en") for text in ENGLISH_TEXT)]
    train_tokenizer(both, vocab_size=700, special_tokens=[END_OF_TEXT, "<extra>", PAD], output_dir=folder / "other")
    return {path.name: Tokenizer.from_folder(path) for path in folder.iterdir()}


def model_of(tokenizer: Tokenizer, **changes) -> Model:
    config = config_with(vocab_size=tokenizer.vocab_size, **changes)
    return Model(config, random_params(config), tokenizer)


@pytest.fixture(scope="module")
def old(tokenizers) -> Model:
    """With an output head of its own."""
    return model_of(tokenizers["ours"], tie_embeddings=False)


# What is carried over


def test_every_row_of_an_extended_tokenizer_keeps_its_id(tokenizers) -> None:
    for kind in ("ours", "gpt2"):
        sources = carried_over(tokenizers[kind], tokenizers[f"{kind}_extended"])
        size = tokenizers[kind].vocab_size
        np.testing.assert_array_equal(sources[:size], np.arange(size))
        np.testing.assert_array_equal(sources[size:], -1)


def test_a_token_is_found_by_its_bytes_and_a_special_token_by_its_name_or_role(tokenizers) -> None:
    gpt2, other = tokenizers["gpt2"], tokenizers["other"]
    sources = carried_over(gpt2, other)
    [space_the], [theirs] = other.encode(" the"), gpt2.encode(" the")
    assert sources[space_the] == theirs
    assert sources[other.end_of_text_id] == gpt2.end_of_text_id
    assert sources[other.pad_id] == gpt2.pad_id
    assert sources[1] == -1  # <extra>
    found = np.flatnonzero(sources >= 0)
    assert len(found) > 256
    for id in found[3:]:
        assert other.decode([int(id)]) == gpt2.decode([int(sources[id])])


# The rows


@pytest.mark.parametrize(
    "init", [pytest.param(init, marks=[pytest.mark.full] * (init == "distilled")) for init in INITS]
)
def test_carried_rows_and_all_other_weights_are_the_same_bits(init: str, old: Model, tokenizers) -> None:
    new = tokenizers["other"]
    moved = with_new_vocabulary(old, new, init=init, texts=KHMER_TEXT, settings=QUICK)
    sources = carried_over(old.tokenizer, new)
    kept = np.flatnonzero(sources >= 0)
    assert (moved.carried, moved.made) == (len(kept), new.vocab_size - len(kept))
    assert moved.config == dataclasses.replace(old.config, vocab_size=new.vocab_size)
    for name in ("token_embedding", "head"):
        table = np.asarray(moved.params[name])
        assert table.shape == (moved.config.padded_vocab_size, old.config.d_model)
        np.testing.assert_array_equal(table[kept], np.asarray(old.params[name])[sources[kept]])
        assert np.isfinite(table).all()
        assert table[: new.vocab_size].any(axis=1).all()
        assert not table[new.vocab_size :].any()
    for name in old.params.keys() - {"token_embedding", "head"}:
        jax.tree.map(np.testing.assert_array_equal, moved.params[name], old.params[name])


@pytest.mark.parametrize("init", ["mean", "calibrated"])
def test_with_the_same_vocabulary_nothing_changes(init: str, old: Model) -> None:
    moved = with_new_vocabulary(old, old.tokenizer, init=init, texts=KHMER_TEXT[:9])
    assert (moved.carried, moved.made, moved.config) == (old.config.vocab_size, 0, old.config)
    for name in ("token_embedding", "head"):
        size = old.config.vocab_size
        np.testing.assert_array_equal(moved.params[name][:size], old.params[name][:size])


def test_mean_rows_are_the_mean_of_the_rows_of_the_old_pieces(old: Model, tokenizers) -> None:
    new = tokenizers["other"]
    moved = with_new_vocabulary(old, new, init="mean")
    [khmer], [cut] = new.encode("ខ្មែរ")[:1], [new.encode("ក")[0]]
    checked = 0
    for name in ("token_embedding", "head"):
        before, after = np.asarray(old.params[name]), np.asarray(moved.params[name])
        for id in (khmer, cut):
            text = new.decode([id])
            if "\ufffd" not in text:
                np.testing.assert_allclose(
                    after[id], before[old.tokenizer.encode(text)].mean(axis=0), rtol=1e-5, atol=1e-7
                )
                checked += 1
        # A token without a role stands for no text: nothing is known about it.
        np.testing.assert_allclose(after[1], before[: old.tokenizer.vocab_size].mean(axis=0), rtol=1e-4, atol=1e-6)
    assert checked >= 2


def test_a_token_that_is_no_whole_character_is_the_mean_of_its_bytes(old: Model, tokenizers) -> None:
    new = tokenizers["ours_extended"]
    moved = with_new_vocabulary(old, new, init="mean")
    sizes = new.token_bytes()
    id = next(id for id in range(old.tokenizer.vocab_size, new.vocab_size) if sizes[id] == 2)  # E1 9E
    first, second = old.tokenizer.encode("ក")[:2]
    before = np.asarray(old.params["token_embedding"])
    np.testing.assert_allclose(
        moved.params["token_embedding"][id], (before[first] + before[second]) / 2, rtol=1e-5, atol=1e-7
    )


def test_random_rows_have_the_mean_and_the_spread_of_the_old_ones_and_follow_the_seed(old: Model, tokenizers) -> None:
    first, again, other = (
        np.asarray(with_new_vocabulary(old, tokenizers["other"], init="random", seed=seed).params["token_embedding"])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    made = np.flatnonzero(carried_over(old.tokenizer, tokenizers["other"]) < 0)
    before = np.asarray(old.params["token_embedding"])[: old.tokenizer.vocab_size]
    np.testing.assert_allclose(first[made].std(), before.std(), rtol=0.1)


# Rows of similar tokens


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    np.testing.assert_allclose(
        sparsemax(np.array([[0.5, 0.5, -3.0], [2.0, 0.0, 0.0]])), np.array([[0.5, 0.5, 0], [1, 0, 0]])
    )
    scores = np.random.default_rng(0).standard_normal((20, 9))
    found = sparsemax(scores)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    points = np.random.default_rng(1).dirichlet(np.ones(9), 2000)
    nearest = np.min(((points - scores[:, None]) ** 2).sum(-1), axis=1)
    assert (((found - scores) ** 2).sum(-1) <= nearest).all()


def test_tokens_in_the_same_places_have_similar_static_embeddings() -> None:
    rng = np.random.default_rng(0)
    # Tokens 0 and 1 stand between 2 and 3; tokens 4 and 5 between 6 and 7.
    texts = [text for _ in range(200) for text in ([2, int(rng.integers(2)), 3], [6, 4 + int(rng.integers(2)), 7])]
    vectors = static_embeddings(texts, 10)
    assert vectors[0] @ vectors[1] > 0.8
    assert vectors[4] @ vectors[5] > 0.8
    assert vectors[0] @ vectors[4] < 0.5
    assert not vectors[8:].any()  # they do not occur
    otherwise = np.zeros((2, 20), np.float32)
    otherwise[:, 19] = 1
    weights = similar_weights(
        vectors,
        np.array([-1, 11, 12, 13, -1, 15, 16, 17, -1, -1]),
        np.array([0, 8]),
        20,
        scipy.sparse.csr_array(otherwise),
    ).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert weights[0].argmax() == 11
    assert weights[1, 19] == 1


# Token distillation


@pytest.mark.full
def test_distillation_lowers_its_losses_and_changes_only_the_new_rows(tokenizers) -> None:
    old = model_of(tokenizers["gpt2"])
    new = tokenizers["gpt2_extended"]
    mean = with_new_vocabulary(old, new, init="mean")
    ids = np.flatnonzero(carried_over(old.tokenizer, new) < 0)
    settings = DistillSettings(steps=60, batch_size=4, seq_len=48)
    params, curve = distill(old, Model(mean.config, mean.params, new), ids, KHMER_TEXT, settings)
    first, last = (
        {name: np.mean([losses[name] for losses in part]) for name in part[0]} for part in (curve[:10], curve[-10:])
    )
    assert last["hidden"] < 0.9 * first["hidden"]
    assert last["next_token"] < first["next_token"]
    size = old.tokenizer.vocab_size
    np.testing.assert_array_equal(params["token_embedding"][:size], mean.params["token_embedding"][:size])
    assert not np.array_equal(params["token_embedding"][size:], mean.params["token_embedding"][size:])


def test_texts_without_a_new_token_teach_nothing_and_are_refused(tokenizers) -> None:
    old = model_of(tokenizers["gpt2"])
    with pytest.raises(UserError, match="no text has a new token"):
        with_new_vocabulary(old, tokenizers["gpt2_extended"], init="distilled", texts=ENGLISH_TEXT, settings=QUICK)


# The command


@pytest.fixture(scope="module")
def exported(tokenizers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_with(**preset("llama"), vocab_size=tokenizers["ours"].vocab_size)
    return export(
        config, random_params(config), tokenizers["ours"], tmp_path_factory.mktemp("model") / "old", dtype="bfloat16"
    )


@pytest.fixture
def flags(exported: Path, tokenizers, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "km.txt").write_text("\n".join(KHMER_TEXT[:60]))
    return {
        "--model": str(exported),
        "--tokenizer-dir": str(tokenizers["ours_extended"].folder),
        "--output-dir": str(tmp_path / "out"),
    }


def called(flags: dict[str, str]) -> tuple[int, str, str]:
    return tonsai("new-vocabulary", *(word for pair in flags.items() for word in pair))


@pytest.mark.full
def test_the_command_writes_a_model_that_loads_here_in_the_stored_dtype(flags, exported: Path, tmp_path: Path) -> None:
    flags |= {"--init": "distilled", "--distill-steps": "3", "--input": str(tmp_path / "km.txt")}
    flags |= {"--json": str(tmp_path / "figures.json")}
    code, out, err = called(flags)
    assert (code, without_progress(err)) == (0, "")
    assert "400 rows carried over, 200 new rows (distilled), bfloat16" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["carried_over"], figures["new_rows"], figures["dtype"]) == (400, 200, "bfloat16")
    assert len(figures["distillation"]) == 3
    [text] = figures["texts"].values()
    assert text["now"] > 3 * text["before"]
    before, after = open_pretrained(str(exported)), open_pretrained(str(tmp_path / "out"))
    assert (after.dtype, after.model_config.vocab_size) == ("bfloat16", 600)
    old, new = before.params(), after.params()
    for name in ("token_embedding", "head"):
        np.testing.assert_array_equal(new[name][:400], old[name][:400])
    jax.tree.map(np.testing.assert_array_equal, new["blocks"], old["blocks"])
    tokenizer = after.tokenizer()
    assert tokenizer.decode(tokenizer.encode(KHMER_TEXT[0])) == KHMER_TEXT[0]


@pytest.mark.full
def test_transformers_computes_our_logits_with_the_new_vocabulary(flags, tmp_path: Path) -> None:
    reason = "`uv sync --extra hf` brings PyTorch and transformers"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    assert called(flags)[0] == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    opened = open_pretrained(str(tmp_path / "out"))
    ids = np.array([opened.tokenizer().encode(KHMER_TEXT[0])[:32]])
    assert (ids >= 400).any()
    config = dataclasses.replace(opened.model_config, dtype="float32", attention="xla")
    model = nnx.merge(model_graph(config, "xla"), opened.params())
    with torch.no_grad():
        expected = theirs(torch.asarray(ids)).logits.numpy()
    np.testing.assert_allclose(model.logits(model(ids)[0]), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--model": "nowhere"}, "nowhere: no such folder"),
        ({"--tokenizer-dir": "nowhere"}, "nowhere: no such tokenizer folder"),
        ({"--init": "average"}, "init='average' is not known; known are: mean, similar, calibrated, distilled, random"),
        ({"--init": "similar"}, "init=similar learns from text in the new language; give documents"),
        ({"--init": "distilled", "--input": "km.txt", "--distill-steps": "0"}, "--distill-steps 0: must be at least 1"),
        ({"--init": "distilled", "--input": "no.txt"}, "no.txt: no such file"),
        ({"--output-dir": "mine"}, "mine: already exists and was not made by this command"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(changed, message, flags, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    paths = ("--model", "--tokenizer-dir", "--input", "--output-dir")
    flags |= {flag: str(tmp_path / value) if flag in paths else value for flag, value in changed.items()}
    before = sorted(tmp_path.rglob("*"))
    code, out, err = called(flags)
    assert (code, out) == (1, "")
    assert message in err
    assert len(without_progress(err).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("init", ["mean", "similar"])
def test_a_special_token_without_a_row_in_the_old_model_gets_one(init: str, tmp_path: Path) -> None:
    """Gemma 3 1B has no row for the last token, which stands for an image."""
    tokenizer = Tokenizer.from_folder(gemma3(tmp_path / "gemma3"))
    config = config_with(vocab_size=tokenizer.vocab_size - 1)
    old = Model(config, random_params(config), tokenizer)
    moved = with_new_vocabulary(old, tokenizer, init=init, texts=KHMER_TEXT)
    before, after = (np.asarray(model.params["token_embedding"]) for model in (old, moved))
    assert (moved.config.vocab_size, moved.made) == (tokenizer.vocab_size, 1)
    np.testing.assert_array_equal(after[: config.vocab_size], before[: config.vocab_size])
    np.testing.assert_allclose(after[config.vocab_size], before[: config.vocab_size].mean(axis=0), atol=1e-5)


def test_a_tokenizer_that_does_not_belong_to_the_model_is_refused(old: Model, tokenizers) -> None:
    wrong = dataclasses.replace(old, tokenizer=tokenizers["other"])
    with pytest.raises(UserError, match="has 700 ids, but the model has only 400; it does not belong to the model"):
        with_new_vocabulary(wrong, tokenizers["ours"], init="mean")
