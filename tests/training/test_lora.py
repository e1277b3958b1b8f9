"""LoRA in training: only adapters move, no gradient of the base is computed, and a run stops, resumes and opens like others."""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from tests.support.families import config_of
from tests.support.tiny_model import CONFIG, config_with, random_params
from tests.support.tiny_run import TinyRun
from tests.support.train_step import ADAMW, COSINE, END, assert_same, batch_of, one_device
from tonsai_jax.checkpoints.saved import open_checkpoint
from tonsai_jax.commands import export as export_command
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.pretrained import open_pretrained
from tonsai_jax.inference.load import load_run
from tonsai_jax.model.config import LORA_TARGETS, Lora, ModelConfig
from tonsai_jax.model.lora import join_adapters, merge_adapters
from tonsai_jax.stages import MicroBatch
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import TrainState, abstract_state, init_state, model_graph
from tonsai_jax.training.step import LossSettings, TrainStep, make_train_step

LORA = Lora(rank=4, alpha=16.0, dropout=0.0, targets=LORA_TARGETS)


def make_step(config: ModelConfig, lora: Lora | None, optimizer: Any = ADAMW, **changes: Any) -> TrainStep:
    return make_train_step(
        model_graph(config, "xla", lora=lora),
        optimizer,
        changes.pop("schedule", COSINE),
        one_device(),
        loss=LossSettings(chunk_tokens=32, z_loss=1e-4),
        end_of_text_id=END,
        dropout_key=jax.random.key(1),
        **{"clip_norm": 1.0} | changes,
    )


def test_only_adapters_move_and_only_they_have_moments() -> None:
    lora = dataclasses.replace(LORA, dropout=0.1)
    start = init_state(CONFIG, ADAMW, one_device(), 0, lora)
    before = jax.device_get(start)
    state, losses = start, []
    step = make_step(CONFIG, lora)
    for _ in range(5):
        state, metrics = step(state, batch_of())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.05
    assert_same(before.frozen, state.frozen)
    for path, leaf in flatten_dict(before.params).items():
        assert not np.array_equal(leaf, flatten_dict(state.params)[path]), path
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert moments == 2 * lora.num_parameters(CONFIG) + 1


@pytest.mark.parametrize("accumulates", [False, pytest.param(True, marks=pytest.mark.full)])
def test_the_gradient_of_an_adapter_follows_from_that_of_the_merged_kernel(accumulates: bool) -> None:
    """dA = s dW B^T and dB = s A^T dW, where dW is the gradient of W + s A B in a step that trains everything."""
    descent = {"optimizer": optax.identity(), "schedule": lambda step: jnp.float32(1), "clip_norm": 0.0}
    descent |= {"micro_batch": MicroBatch(2)} if accumulates else {}
    start = init_state(CONFIG, optax.identity(), one_device(), 0, LORA)
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(lambda a: jnp.asarray(0.1 * rng.standard_normal(a.shape), a.dtype), start.params)
    merged = merge_adapters(join_adapters(adapters, start.frozen), LORA)
    whole = TrainState(jnp.copy(start.step), jax.tree.map(jnp.copy, merged), start.opt_state)
    after, _ = make_step(CONFIG, None, **descent)(whole, batch_of())
    gradient = jax.tree.map(jnp.subtract, merged, after.params)
    kept = jax.device_get(adapters)
    after, _ = make_step(CONFIG, LORA, **descent)(dataclasses.replace(start, params=adapters), batch_of())
    for name in LORA_TARGETS:
        a, b = (kept["blocks"][name]["adapter"][key] for key in ("lora_a", "lora_b"))
        new_a, new_b = (after.params["blocks"][name]["adapter"][key] for key in ("lora_a", "lora_b"))
        dw = np.asarray(gradient["blocks"][name]["kernel"])
        np.testing.assert_allclose(a - new_a, LORA.scale * dw @ b.swapaxes(1, 2), atol=2e-5, err_msg=name)
        np.testing.assert_allclose(b - new_b, LORA.scale * a.swapaxes(1, 2) @ dw, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *(
            pytest.param(c, marks=pytest.mark.full)
            for c in ({"remat": "full"}, {"scan_layers": False}, {"dtype": "bfloat16"})
        ),
    ],
    ids=str,
)
def test_no_gradient_of_the_base_is_computed(changes: dict[str, Any]) -> None:
    """In the program of the step no matrix product has the shape of a kernel, or of the table."""
    config = config_with(d_model=48, d_ff=80, **changes)
    D, F, V = config.d_model, config.d_ff, config.padded_vocab_size
    gradients = {(D, 3 * D), (D, D), (D, F), (F, D), (V, D)}

    def products(lora: Lora | None) -> set[tuple[int, ...]]:
        state = abstract_state(config, ADAMW, one_device(), lora)
        step = make_step(config, lora, micro_batch=MicroBatch(4))
        program = step.lower(state, batch_of()).as_text()  # type: ignore[attr-defined]  # it is jitted
        found = re.findall(r"dot_general .* -> tensor<([\dx]+)x\w+>", program)
        return {tuple(map(int, shape.split("x"))) for shape in found}

    assert gradients <= products(None)
    assert gradients & products(LORA) == set()


# Runs


@pytest.fixture(scope="module")
def base(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in Hugging Face format with the tokenizer of the rows."""
    tokenizer = Tokenizer.from_folder(rows / "tokenizer")
    config = dataclasses.replace(config_of("llama"), vocab_size=tokenizer.vocab_size)
    return export(config, random_params(config), tokenizer, tmp_path_factory.mktemp("base") / "model", dtype="bfloat16")


@pytest.fixture
def lora_run(run: TinyRun, base: Path) -> TinyRun:
    run.overrides = (f"init_from={base}", "lora.rank=4", "lora.dropout=0.1", "steps=6", "optimizer.warmup_steps=0")
    return run


@pytest.mark.full
def test_a_stopped_run_resumes_bit_for_bit_and_opens_merged(
    lora_run: TinyRun, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("eval.every=3", "sample.every=3", "model.dtype=bfloat16")
    never_stopped = TinyRun(lora_run.rows, tmp_path / "never" / "run", lora_run.overrides)
    printed = never_stopped.train(*keys)
    assert "parameters are trained, rank 4 at qkv, attention_out, mlp_up, mlp_down" in printed
    assert "no samples" not in printed
    lora_run.train(*keys, steps_today=2)
    assert "weights: the checkpoint of this run at step 2" in lora_run.train(*keys)
    assert lora_run.losses() == never_stopped.losses()
    assert lora_run.losses()[6] < lora_run.losses()[1]

    ours = load_run(lora_run.workdir).params
    assert_same(ours, load_run(never_stopped.workdir).params)
    opened = open_checkpoint(lora_run.workdir)
    assert set(opened.params()["blocks"]["qkv"]) == {"adapter"}, "the checkpoint has only adapters"
    assert opened.lora is not None
    whole = merge_adapters(join_adapters(opened.params(), open_pretrained(str(base)).params()), opened.lora)
    assert_same(ours, whole)
    assert_same(ours["token_embedding"], open_pretrained(str(base)).params()["token_embedding"])

    folder = tmp_path / "adapter"
    monkeypatch.setattr("sys.argv", ["export", f"--workdir={lora_run.workdir}", f"--output-dir={folder}", "--adapter"])
    export_command.main()
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == str(base)


@pytest.mark.full
def test_a_run_continues_from_a_lora_run(lora_run: TinyRun, tmp_path: Path) -> None:
    """From its merged model: with new adapters, or with all parameters trained."""
    lora_run.train("steps=2")
    merged = load_run(lora_run.workdir).params
    again = TinyRun(lora_run.rows, tmp_path / "again" / "run", ("steps=1", "optimizer.warmup_steps=0"))
    again.train(f"init_from={lora_run.workdir}", "lora.rank=2", "optimizer.learning_rate=1e-30")
    assert_same(load_run(again.workdir).params, merged, atol=1e-7)
    other = TinyRun(lora_run.rows, tmp_path / "other" / "run", again.overrides)
    other.train(f"init_from={lora_run.workdir}", "optimizer.learning_rate=1e-30")
    assert_same(load_run(other.workdir).params, merged, atol=1e-7)


@pytest.mark.full
def test_a_base_that_changed_or_is_gone_is_refused(lora_run: TinyRun, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    lora_run.overrides = (f"init_from={folder}", *lora_run.overrides[1:])
    lora_run.train(steps_today=1)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for use in (lora_run.train, lambda: load_run(lora_run.workdir)):
        with pytest.raises(
            UserError, match=r"its adapters belong to the model that was in .*/model .* put the earlier"
        ):
            use()
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"its adapters belong to cannot be opened: base=.*no such folder"):
        load_run(lora_run.workdir)


@pytest.mark.full
def test_adapters_of_another_shape_do_not_resume(lora_run: TinyRun) -> None:
    lora_run.train(steps_today=1)
    for key in ("lora.rank=8", "lora.rank=0", "lora.targets=('qkv',)"):
        with pytest.raises(UserError, match=rf"does not fit lora.{key[5:9]}.*give another --workdir") as refused:
            lora_run.train(key)
    advice = re.search("add (.*), or give", str(refused.value))
    assert advice
    [word] = shlex.split(advice[1])  # a shell takes it as one word, and the run goes on with it
    lora_run.train(word.removeprefix("--config."), steps_today=1)
    assert "lora.alpha: 16.0 -> 8.0" in lora_run.train("lora.alpha=8.0")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("init_from=",), "lora.rank=4 needs the model that it adapts: add --config.init_from="),
        (("optimizer.name=muon",), "optimizer.name='muon' is for whole matrices"),
        (("lora.targets=('qkv','head')",), "no layer is called 'head'"),
    ],
)
def test_a_run_that_cannot_be_is_refused(lora_run: TinyRun, keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lora_run.train(*keys)
    assert not lora_run.workdir.exists() or not read_json(lora_run.workdir / "config.json")
