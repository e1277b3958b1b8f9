"""Bits per byte: each byte of held-out text counts once, whatever the batch, the tokenizer's padding or the number of sources."""

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.support.clock import Clock
from tests.support.console import next_line
from tests.support.eight_devices import run_on_two_processes_of_four_devices
from tests.support.tiny_model import CONFIG, config_with, random_params, tiny_tokenizer
from tonsai_jax.config import default_config, stages_of
from tonsai_jax.data.manifest import RowsManifest, SourceInfo, SplitInfo, dtype_for, read_manifest
from tonsai_jax.data.marks import marks_of
from tonsai_jax.data.packing import write_packed
from tonsai_jax.data.row_writer import RowWriter, write_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation import bits_per_byte
from tonsai_jax.evaluation.bits_per_byte import (
    Evaluation,
    Score,
    conversations_for_others,
    evaluate,
    held_out_windows,
    share_windows,
)
from tonsai_jax.evaluation.run import evaluate_run
from tonsai_jax.files import sha256_file
from tonsai_jax.hooks import Hooks
from tonsai_jax.inference.load import Run
from tonsai_jax.reporting import progress_bar
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.mesh import make_mesh, one_device_mesh
from tonsai_jax.training.metrics import MetricsWriter
from tonsai_jax.training.state import model_graph
from tonsai_jax.training.step import LossSettings, make_eval_step

END = 0
ROW_TOKENS, SEQ_LEN = 16, 8
LANGUAGES = {"wiki": "km", "news": "km", "stories": "en"}
LENGTHS = {"wiki": 200, "news": 37, "stories": 123}
TOKEN_BYTES = np.arange(CONFIG.vocab_size, dtype=np.int32) % 7 + 1  # any will do, but 0 for end-of-text
TOKEN_BYTES[END] = 0
NO_TEXT = SplitInfo(0, 0, 0, 0, ())


def stream(source: str) -> np.ndarray:
    """The validation text of a source: random ids, with end-of-text in between."""
    rng = np.random.default_rng(LENGTHS[source])
    ids = rng.integers(1, 280, LENGTHS[source])
    ids[::25] = END
    return ids


def targets(source: str) -> np.ndarray:
    """What is scored: each id but the first, end-of-text left out."""
    ids = stream(source)[1:]
    return ids[ids != END]


def write_rows(directory: Path, tokenizer_file: Path) -> RowsManifest:
    copy = directory / "tokenizer" / "tokenizer.json"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(tokenizer_file.read_bytes())
    sources = {}
    for name, language in LANGUAGES.items():
        with RowWriter(
            directory, name, "validation", row_tokens=ROW_TOKENS, vocab_size=300, end_of_text_id=END, rows_per_shard=4
        ) as writer:
            writer.write(stream(name))
            split = writer.finish(documents=1, text_bytes=1)
        sources[name] = SourceInfo(name, 1 / 3, language, {"train": NO_TEXT, "validation": split})
    sources["untested"] = SourceInfo("untested", 0.1, "fr", {"train": NO_TEXT, "validation": NO_TEXT})
    manifest = RowsManifest(directory, ROW_TOKENS, dtype_for(300), 300, END, sha256_file(copy), sources)
    write_manifest(manifest)
    return read_manifest(directory)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> RowsManifest:
    return write_rows(tmp_path_factory.mktemp("rows"), tokenizer.folder / "tokenizer.json")


@pytest.fixture(scope="module")
def eval_step():
    return make_eval_step(
        model_graph(CONFIG, "xla"),
        mesh(),
        loss=LossSettings(chunk_tokens=16, z_loss=0.01),  # z-loss is no part of a score
        end_of_text_id=END,
        token_bytes=jnp.asarray(TOKEN_BYTES),
    )


def mesh() -> Mesh:
    return one_device_mesh()


def scored(eval_step, manifest, params, *, batch_size=4, max_tokens=0, seq_len=SEQ_LEN) -> Evaluation:
    return evaluate(eval_step, params, manifest, mesh(), seq_len=seq_len, batch_size=batch_size, max_tokens=max_tokens)


PARAMS = random_params(CONFIG)
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def test_a_model_that_knows_nothing_has_the_bits_of_guessing_among_the_true_vocabulary(eval_step, manifest) -> None:
    evaluation = scored(eval_step, manifest, ZERO)
    for source in LANGUAGES:
        bits = math.log2(CONFIG.vocab_size) * len(targets(source))  # and not log2 of the 384 padded rows
        score = evaluation.sources[source]
        assert score.bits_per_byte == pytest.approx(bits / TOKEN_BYTES[targets(source)].sum(), rel=1e-6)
        assert score.perplexity == pytest.approx(CONFIG.vocab_size, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
def test_every_target_counts_once_whatever_the_batch(eval_step, manifest, batch_size: int) -> None:
    evaluation = scored(eval_step, manifest, PARAMS, batch_size=batch_size)
    for source, score in evaluation.sources.items():
        assert score.tokens == len(targets(source))
        assert score.bytes == TOKEN_BYTES[targets(source)].sum()
    alone = scored(eval_step, manifest, PARAMS, batch_size=1)
    assert evaluation.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-6)


def test_what_the_tokenizer_puts_before_a_text_is_no_byte_of_it(manifest) -> None:
    step = make_eval_step(
        model_graph(CONFIG, "xla"),
        mesh(),
        loss=LossSettings(chunk_tokens=16, z_loss=0.0),
        end_of_text_id=END,
        token_bytes=jnp.asarray(TOKEN_BYTES),
        prefix_bytes=1,
    )
    ids = stream("wiki")
    begins = np.sum((ids[:-1] == END) & (ids[1:] != END))
    assert scored(step, manifest, ZERO).sources["wiki"].bytes == TOKEN_BYTES[targets("wiki")].sum() - begins


def test_a_long_evaluation_shows_how_far_it_is(eval_step, manifest, monkeypatch, capsys) -> None:
    clock = Clock()
    monkeypatch.setattr(progress_bar, "time", clock)
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_UPDATES", 0.001)
    scored(eval_step, manifest, ZERO, batch_size=3)
    assert capsys.readouterr().err == "", "it takes no time"

    lines = []

    def slow_step(params, batch):
        clock.now += progress_bar.SECONDS_BETWEEN_LINES
        lines.append(next_line(capsys))
        return eval_step(params, batch)

    scored(slow_step, manifest, ZERO, batch_size=3)
    windows = sum(-(-(length - 1) // SEQ_LEN) for length in LENGTHS.values())
    assert lines[0] == f"evaluating: 0 of {windows} windows (0%), 10s so far\n"
    assert lines[1].startswith(f"evaluating: 0 of {windows} windows (0%), 20s"), (
        "a batch is read when the next one is on its way"
    )
    assert lines[2].startswith(f"evaluating: 3 of {windows} windows (7%), 30s so far, about ")
    assert lines[-1].startswith(f"evaluating: {windows - 4} of {windows} windows (91%), ")


def test_the_score_is_the_log_probability_of_the_text(eval_step, manifest) -> None:
    """By hand: every window of 8 tokens, the probability of each next id, from the model's own logits."""
    from flax import nnx

    model = nnx.merge(model_graph(CONFIG, "xla"), PARAMS)
    ids = stream("news")
    padded = np.pad(ids, (0, -(len(ids) - 1) % SEQ_LEN))
    inputs = padded[:-1].reshape(-1, SEQ_LEN)
    log_p = np.asarray(jax.nn.log_softmax(model.logits(model(inputs, end_of_text_id=END)[0]))).reshape(
        -1, CONFIG.vocab_size
    )
    wanted = ids[1:]
    nats = -sum(log_p[place, id_] for place, id_ in enumerate(wanted) if id_ != END)
    assert scored(eval_step, manifest, PARAMS).sources["news"].nats == pytest.approx(nats, rel=1e-5)


def test_a_budget_of_tokens_takes_windows_spread_over_each_source(eval_step, manifest) -> None:
    part = scored(eval_step, manifest, PARAMS, batch_size=2, max_tokens=17 * SEQ_LEN).sources
    assert part["news"] == scored(eval_step, manifest, PARAMS, batch_size=2).sources["news"]  # it has only 5 windows
    ids = stream("wiki")[1:]
    seen = np.concatenate(
        [ids[number * SEQ_LEN : (number + 1) * SEQ_LEN] for number in np.linspace(0, 24, 6).astype(int)]
    )
    assert part["wiki"].tokens == (seen != END).sum()
    assert part["wiki"].bytes == TOKEN_BYTES[seen].sum()
    assert sum(score.tokens for score in part.values()) <= 17 * SEQ_LEN


@pytest.mark.parametrize(
    ("windows", "shares"),
    [
        (0, [100, 5, 20, 0]),  # all
        (1000, [100, 5, 20, 0]),
        (12, [4, 4, 4, 0]),
        (25, [10, 5, 10, 0]),
        (65, [40, 5, 20, 0]),
        (1, [1, 1, 1, 0]),  # no source goes unseen
    ],
)
def test_what_a_small_source_leaves_of_the_budget_goes_to_the_others(windows: int, shares: list[int]) -> None:
    counts = dict(zip("abcd", (100, 5, 20, 0), strict=True))
    chosen = share_windows(counts, windows * SEQ_LEN + (SEQ_LEN - 1 if windows else 0), SEQ_LEN)
    assert [len(numbers) for numbers in chosen.values()] == shares
    assert list(chosen) == list(counts)
    for name, numbers in chosen.items():
        assert len(set(numbers.tolist())) == len(numbers)
        if len(numbers) > 1:
            assert (numbers[0], numbers[-1]) == (0, counts[name] - 1)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_a_long_validation_text_is_read_in_pieces(eval_step, manifest, monkeypatch, batch_size: int) -> None:
    whole = scored(eval_step, manifest, PARAMS, batch_size=batch_size)
    monkeypatch.setattr(bits_per_byte, "_PIECE_TOKENS", 8 * SEQ_LEN)
    assert scored(eval_step, manifest, PARAMS, batch_size=batch_size) == whole


def test_sources_of_a_language_add_up_and_languages_count_alike(eval_step, manifest) -> None:
    evaluation = scored(eval_step, manifest, PARAMS)
    sources, languages = evaluation.sources, evaluation.languages
    assert set(sources) == set(LANGUAGES)  # a source without validation text has no score
    assert languages == {"km": sources["wiki"] + sources["news"], "en": sources["stories"]}
    mean = (languages["km"].bits_per_byte + languages["en"].bits_per_byte) / 2
    assert evaluation.bits_per_byte == pytest.approx(mean)
    scalars = evaluation.scalars()
    assert scalars["eval/bits_per_byte"] == evaluation.bits_per_byte
    assert scalars["eval/bits_per_byte/km"] == languages["km"].bits_per_byte
    assert scalars["eval/bits_per_byte/source/wiki"] == sources["wiki"].bits_per_byte
    assert "language km" in evaluation.table()


def test_between_steps_a_device_evaluates_no_more_windows_at_once_than_in_training(
    eval_step, manifest, tmp_path
) -> None:
    """Else a run whose batch is done in parts would have no memory to evaluate; the text is that of whole batches."""
    config = default_config()
    config.steps = 1
    config.seq_len, config.global_batch_size, config.micro_batch_size, config.eval.tokens = SEQ_LEN, 4, 2, 192
    held = set()

    def watched(params, batch):
        held.add(len(batch["tokens"]))
        return eval_step(params, batch)

    hooks = Hooks(
        config=config,
        workdir=tmp_path,
        stages=stages_of(config),
        model_config=CONFIG,
        manifest=manifest,
        tokenizer=cast(Tokenizer, None),  # only samples need it
        mesh=mesh(),
        eval_step=watched,
        writer=MetricsWriter(tmp_path, start_step=0, active=False, wandb_project="", wandb_name="", config={}),
        say=print,
    )
    evaluation = hooks.evaluate(1, PARAMS)
    assert held == {2}
    assert isinstance(evaluation, Evaluation)
    for name, whole in scored(eval_step, manifest, PARAMS, batch_size=4, max_tokens=192).sources.items():
        assert evaluation.sources[name].tokens == whole.tokens
        assert evaluation.sources[name].nats == pytest.approx(whole.nats, rel=1e-6)


def check_that_a_file_damaged_on_one_host_ends_the_evaluation_on_all() -> None:
    mesh = make_mesh(-1, 1)
    params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
    step = make_eval_step(
        model_graph(CONFIG, "xla", mesh),
        mesh,
        loss=LossSettings(chunk_tokens=16, z_loss=0.0),
        end_of_text_id=END,
        token_bytes=jnp.asarray(TOKEN_BYTES),
    )
    config = default_config()
    config.seq_len, config.global_batch_size = SEQ_LEN, 8
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:  # each process has its own, as hosts do
        (Path(folder) / "tokenizer.json").write_text("{}")
        manifest = write_rows(Path(folder) / "rows", Path(folder) / "tokenizer.json")
        writer = MetricsWriter(Path(folder), start_step=0, active=False, wandb_project="", wandb_name="", config={})
        no_tokenizer = cast(Tokenizer, None)
        hooks = Hooks(
            config, Path(folder), stages_of(config), CONFIG, manifest, no_tokenizer, mesh, step, writer, lines.append
        )
        whole = hooks.evaluate(1, params)
        assert isinstance(whole, Evaluation)
        for source, score in whole.sources.items():
            assert (score.tokens, score.bytes) == (len(targets(source)), TOKEN_BYTES[targets(source)].sum())
        if jax.process_index() == 1:
            manifest.sources["news"].splits["validation"].files[0].path.write_bytes(b"not an array record")
        assert hooks.evaluate(2, params) is None
        assert "step 2: the evaluation failed, training continues (UserError: process 1 (" in lines[-1]
        assert "news/validation-00000-of-00001.arrayrecord: damaged token rows" in lines[-1]
        sync_global_devices("training continues")


@pytest.mark.full
def test_a_file_damaged_on_one_host_ends_the_evaluation_on_all() -> None:
    """And not in a wait for ever of the other hosts."""
    run_on_two_processes_of_four_devices(check_that_a_file_damaged_on_one_host_ends_the_evaluation_on_all)


def test_a_score_is_bits_by_bytes() -> None:
    score = Score(nats=math.log(2) * 12, tokens=6, bytes=4) + Score()
    assert score.bits_per_byte == pytest.approx(3.0)
    assert score.perplexity == pytest.approx(4.0)
    assert math.isnan(Score().bits_per_byte)
    assert math.isnan(Evaluation({}, {}).bits_per_byte)
    assert Evaluation({}, {}).scalars() == {}


# A run's checkpoint


def run_with(tokenizer: Tokenizer, params=ZERO) -> Run:
    config = default_config()
    config.seq_len = SEQ_LEN
    return Run("run", config_with(), params, tokenizer, tokenizer.folder.parent, config, step=1)


def test_a_run_is_scored_by_the_bytes_of_its_own_tokenizer(tokenizer, manifest) -> None:
    evaluation = evaluate_run(run_with(tokenizer), manifest, seq_len=None, batch_size=8, max_tokens=0).evaluation()
    ids = targets("stories")
    bits = math.log2(CONFIG.vocab_size) * len(ids)
    assert evaluation.sources["stories"].bits_per_byte == pytest.approx(
        bits / tokenizer.token_bytes()[ids].sum(), rel=1e-6
    )


def test_a_budget_chooses_the_windows_that_the_evaluations_of_the_run_choose(tokenizer, tmp_path) -> None:
    """Conversations for another run lie next to its text: they take nothing of its budget, but are scored as other rows."""
    rows = write_rows(tmp_path / "rows", tokenizer.folder / "tokenizer.json")
    marked = [(np.arange(1, 9), marks_of([False] * 4 + [True] * 4))] * 4
    settings = {"row_tokens": ROW_TOKENS, "vocab_size": 300, "pad_id": END, "text_bytes": 1}
    split = write_packed(rows.directory, "chats", "validation", marked, **settings)
    chats = SourceInfo("chats", 1.0, "km", {"train": NO_TEXT, "validation": split}, kind="conversations")
    write_manifest(dataclasses.replace(rows, sources={**rows.sources, "chats": chats}))
    run, rows = run_with(tokenizer), read_manifest(rows.directory)
    run.config.seq_len = ROW_TOKENS  # packed rows are not cut
    run.config.data.weights = dict.fromkeys(LANGUAGES, 1.0)

    def tokens_of_sources() -> dict[str, int]:
        found = evaluate_run(run, rows, seq_len=None, batch_size=8, max_tokens=12 * ROW_TOKENS).evaluation()
        return {name: score.tokens for name, score in found.sources.items()}

    of_other_rows = tokens_of_sources()
    run.config.data.dir = str(rows.directory)
    own = tokens_of_sources()
    stages = stages_of(run.config)
    chosen = held_out_windows(rows, ROW_TOKENS, 12 * ROW_TOKENS, conversations_for_others(rows, stages))
    ids = {name: stream(name)[1:] for name in LANGUAGES}
    wanted = {
        name: sum(int((ids[name][16 * number : 16 * (number + 1)] != END).sum()) for number in chosen[name])
        for name in LANGUAGES
    }
    assert own == wanted
    assert "chats" in of_other_rows
    assert of_other_rows["wiki"] < own["wiki"]
    run.config.data.weights = {"chats": 1.0}
    assert tokens_of_sources() == of_other_rows, "the run learned from them"


def test_rows_of_another_tokenizer_are_refused(tokenizer, tmp_path) -> None:
    (tmp_path / "other.json").write_text("{}")
    rows = write_rows(tmp_path / "rows", tmp_path / "other.json")
    with pytest.raises(UserError, match="these rows were made with another tokenizer than the run's; give others"):
        evaluate_run(run_with(tokenizer), rows, seq_len=None, batch_size=8, max_tokens=0)


def test_rows_without_validation_text_are_refused(tokenizer, manifest) -> None:
    sources = {"untested": manifest.sources["untested"]}
    empty = RowsManifest(**{**vars(manifest), "sources": sources})
    with pytest.raises(UserError, match=r"no validation rows; .*`tonsai prepare-sft --val-ratio"):
        evaluate_run(run_with(tokenizer), empty, seq_len=None, batch_size=8, max_tokens=0)


def test_a_sequence_longer_than_the_context_is_refused(tokenizer, manifest) -> None:
    with pytest.raises(UserError, match="seq_len 128 is longer than the model's context of 64"):
        evaluate_run(run_with(tokenizer), manifest, seq_len=128, batch_size=8, max_tokens=0)


def test_a_length_that_the_attention_asked_for_cannot_take_is_refused(tokenizer, manifest, monkeypatch) -> None:
    run = dataclasses.replace(run_with(tokenizer), model_config=config_with(attention="cudnn", dtype="bfloat16"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r"model.attention=cudnn cannot be used: .* even length, not 7; set model"):
        evaluate_run(run, manifest, seq_len=7, batch_size=8, max_tokens=0)
