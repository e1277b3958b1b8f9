"""An estimate before a run: its counts are those of the built model, and its parts add up."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs.gpt2_500m import get_config
from tests.support.tiny_model import config_with
from tests.support.tiny_run import TinyRun
from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError, run_command
from tonsai_jax.model.config import LORA_TARGETS, Lora, ModelConfig
from tonsai_jax.model.presets import preset
from tonsai_jax.planning import step_plan
from tonsai_jax.planning.advice import explain_out_of_memory, mesh_across_hosts, out_of_memory_advice
from tonsai_jax.planning.described_gpu import why_not_compiled
from tonsai_jax.planning.estimate import estimate
from tonsai_jax.planning.memory import largest_micro_batch_size, memory_by_part
from tonsai_jax.planning.report import estimate_as_text
from tonsai_jax.planning.roofline import flops_by_part, run_cost
from tonsai_jax.planning.step_plan import FILLED_SHARE, REMAT_BY_SPEED, StepPlan, plan_steps, usable_bytes
from tonsai_jax.runtime.hardware import gpu_named
from tonsai_jax.training.optimizer import make_optimizer
from tonsai_jax.training.state import init_params, model_graph

ADAMW = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
MODEL = config_with(vocab_size=1280, num_layers=3, num_heads=4, d_model=256, d_ff=1024)
SCRIPT = Path(__file__).parents[2] / "scripts" / "estimate.py"
CONFIG = "configs/gpt2_500m.py"
GIB = 2**30


def memory(model_config: ModelConfig = MODEL, **changes) -> dict[str, int]:
    settings: dict[str, Any] = {
        "attention_backend": "xla",
        "mesh_sizes": {"data": 1, "fsdp": 1, "expert": 1},
        "micro_batch_size": 4,
        "seq_len": 64,
    }
    return memory_by_part(model_config, ADAMW, **settings | {"chunk_tokens": 128} | changes)


def config_of(**model) -> ConfigDict:
    """A small config: on one device 8 sequences of 64 tokens a step."""
    config = default_config()
    config.update({"steps": 100, "seq_len": 64, "global_batch_size": 8})
    config.model.update(
        {"vocab_size": 1280, "context_length": 64, "num_layers": 3, "num_heads": 4, "d_model": 256, "d_ff": 1024}
    )
    config.model.update(model)
    config.optimizer.warmup_steps = 1
    return config


# Counts


def test_parameters_are_those_of_the_built_model() -> None:
    built = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: init_params(MODEL, 0))))
    assert MODEL.padded_vocab_size == MODEL.vocab_size  # else the padding's rows would be in `built` alone
    assert MODEL.num_parameters == built
    assert memory()["parameters"] == 4 * built


def test_remat_keeps_what_experts_receive_from_other_devices() -> None:
    experts = replace(MODEL, mlp="swiglu", bias=False, num_experts=4, capacity_factor=1.0, remat="qkv_mlp")
    kept = [memory(experts, mesh_sizes={"data": 1, "fsdp": 1, "expert": size})["activations"] for size in (1, 2)]
    slots = 64 * experts.experts_per_token  # of a sequence: each choice of a token has one
    assert kept[1] - kept[0] == 4 * experts.num_layers * slots * experts.d_model * jnp.dtype(experts.dtype).itemsize


def test_flops_of_the_forward_pass_are_those_that_xla_counts() -> None:
    """Within 6 %: XLA also counts elementwise work, and our attention multiplies 5/8 of the square, not the causal half."""
    model_config, tokens = replace(MODEL, scan_layers=False), 2 * 64

    def forward(params, tokens_BxT):
        model = nnx.merge(model_graph(model_config, "xla"), params)
        return model.logits(model(tokens_BxT)[0])

    params = jax.eval_shape(lambda: init_params(model_config, 0))
    cost = jax.jit(forward).lower(params, jax.ShapeDtypeStruct((2, 64), jnp.int32)).cost_analysis()
    assert cost is not None
    counted = cost["flops"]
    parts = flops_by_part(model_config, 64)
    assert parts["gemm"] + parts["head"] + parts["attention"] == model_config.flops_per_token(64)
    assert counted == pytest.approx(tokens * model_config.flops_per_token(64) / 3, rel=0.06)


def test_a_sliding_window_multiplies_all_pairs_of_tokens_though_fewer_count() -> None:
    """For one query at the end of 64: 8 keys in a sliding layer, 64 in a global one, and 64 products in each."""
    plain = replace(MODEL, num_layers=2)
    sliding = replace(plain, sliding_window=8, global_every=2)
    causal, parts = flops_by_part(plain, 64), flops_by_part(sliding, 64)
    assert causal["outside_window"] == flops_by_part(replace(sliding, sliding_window=64), 64)["outside_window"] == 0
    assert parts["attention"] + parts["outside_window"] == 2 * causal["attention"]
    attended_in_half_the_layers = 1 - (1 - 8 / 64) ** 2
    assert parts["attention"] / causal["attention"] == pytest.approx((1 + attended_in_half_the_layers) / 2)


@pytest.mark.parametrize("remat", ["none", "qkv_mlp", "full"])
def test_what_is_done_again_is_at_most_the_forward_pass(remat: str) -> None:
    parts = flops_by_part(replace(MODEL, remat=remat), 64)
    share = parts["recomputed"] / ((parts["gemm"] + parts["attention"]) / 3)
    assert {"none": share == 0, "qkv_mlp": 0 < share < 0.25, "full": share == 1}[remat]


@pytest.mark.parametrize(("capacity_factor", "slots"), [(1.25, 2.5), (0.0, 8.0), (5.0, 8.0), (0.5, 2.0)])
def test_experts_compute_all_of_their_capacity_slots(capacity_factor: float, slots: float) -> None:
    model_config = replace(MODEL, **preset("mixtral"), capacity_factor=capacity_factor)
    an_expert = 3 * model_config.d_model * model_config.d_ff * model_config.num_layers
    assert flops_by_part(model_config, 64)["unused_slots"] == pytest.approx(6 * an_expert * (slots - 2))
    assert flops_by_part(MODEL, 64)["unused_slots"] == 0


# Memory


def test_moments_are_two_numbers_for_each_parameter() -> None:
    parts = memory()
    assert parts["moments"] == pytest.approx(2 * parts["parameters"], abs=16)  # and a few counters
    assert parts["gradients"] == parts["parameters"]
    assert memory(accumulates=True)["gradients"] == 2 * parts["parameters"]


def test_activations_grow_with_the_micro_batch_and_shrink_with_remat() -> None:
    assert memory(micro_batch_size=8)["activations"] == 2 * memory(micro_batch_size=4)["activations"]
    none, named, full = (memory(replace(MODEL, remat=name))["activations"] for name in ("none", "qkv_mlp", "full"))
    assert none > named > full > 0


def test_a_layer_kept_by_remat_full_is_its_input() -> None:
    """Per token: the input of each layer, and what the last norm keeps, in float32."""
    model_config = replace(MODEL, remat="full", dtype="bfloat16")
    more = replace(model_config, num_layers=model_config.num_layers + 1)
    difference = memory(more)["activations"] - memory(model_config)["activations"]
    assert difference == 4 * 64 * model_config.d_model * 2


def test_fsdp_splits_what_is_kept_and_not_the_activations() -> None:
    whole, split = memory(), memory(mesh_sizes={"data": 1, "fsdp": 8, "expert": 1})
    for part in ("parameters", "moments", "gradients"):
        assert 1 / 8 <= split[part] / whole[part] < 0.15  # small arrays stay whole
    assert split["activations"] == whole["activations"]
    assert memory(mesh_sizes={"data": 8, "fsdp": 1, "expert": 1}) == whole


def test_a_large_vocabulary_is_fullest_at_the_loss() -> None:
    assert memory()["logits"] == 0
    parts = memory(replace(MODEL, vocab_size=128_000, num_layers=1, d_model=64, d_ff=64), chunk_tokens=4096)
    assert parts["logits"] > parts["activations"]


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    settings = {"model_config": MODEL, "optimizer": ADAMW, "attention_backend": "xla"}
    settings |= {"mesh_sizes": {"data": 1, "fsdp": 1, "expert": 1}}
    settings |= {"seq_len": 64, "chunk_tokens": 128}
    usable = 2 * sum(memory(micro_batch_size=1).values())
    largest = largest_micro_batch_size(usable, **settings)
    assert sum(memory(micro_batch_size=largest).values()) <= usable < sum(memory(micro_batch_size=largest + 1).values())
    divisor = largest_micro_batch_size(usable, sequences_per_device=largest + 1, **settings)
    assert (largest + 1) % divisor == 0
    assert divisor <= largest
    assert largest_micro_batch_size(10, **settings) == 0


# Speed and cost


def test_hours_times_gpus_times_price() -> None:
    assert run_cost(3600e6, 1e6, 8, 2.5) == {"hours": 1.0, "gpu_hours": 8.0, "cost": 20.0}
    assert "cost" not in run_cost(3600e6, 1e6, 8, None)


def test_the_parts_of_an_estimate_agree() -> None:
    figures = estimate(config_of(), gpu_named("h100"), 8, tokens=1e9, price=2.0, compiles=False, say=lambda line: None)
    (stage,) = figures["stages"]
    per_step = sum(stage["seconds"].values())
    assert stage["tokens_per_second"] == pytest.approx(8 * 64 / per_step)
    assert figures["run"]["tokens"] == pytest.approx(1e9, rel=1e-3)
    assert figures["run"]["hours"] == pytest.approx(figures["run"]["tokens"] / stage["tokens_per_second"] / 3600)
    assert figures["run"]["cost"] == pytest.approx(figures["run"]["hours"] * 8 * 2.0)
    assert 0 < stage["mfu"] < 0.8
    assert stage["fits"]
    assert stage["largest_micro_batch"] > stage["micro_batch_size"] == 1  # a GPU's share is one sequence
    text = estimate_as_text(figures)
    assert f"cost       {figures['run']['cost']:.2f}, in the currency of --price" in text
    assert "micro-batches of 1 sequence, " in text
    assert "fits" in text
    assert "all-reduce" in text
    json.dumps(figures)


def test_a_mesh_that_crosses_hosts_takes_longer_than_one_inside_them() -> None:
    config = config_of(d_model=2048, num_heads=16, d_ff=8192)
    # Of 8 micro-batches, each gathers the parameters again; gradients are summed between hosts once per step.
    config.update({"global_batch_size": 128, "micro_batch_size": 1})
    settings: dict[str, Any] = {"compiles": False, "say": lambda line: None}

    def collectives(fsdp: int, **hosts: Any) -> float:
        config.mesh.fsdp = fsdp
        return estimate(config, gpu_named("h100"), 16, **hosts, **settings)["stages"][0]["seconds"]["collectives"]

    one_host = collectives(8, gpus_per_host=16)
    assert one_host < collectives(8) < collectives(8, network_gbit=100)
    assert collectives(16, network_gbit=100) > collectives(8, network_gbit=100)
    text = estimate_as_text(estimate(config, gpu_named("h100"), 16, **settings))
    assert "16 x h100 in 2 hosts, 400 Gb/s for each GPU, mesh" in text
    with pytest.raises(UserError, match=r"--num-gpus 12 is no multiple of --gpus-per-host 8"):
        estimate(config, gpu_named("h100"), 12, **settings)


@pytest.mark.parametrize(
    ("fsdp", "hosts", "gib", "expected"),
    [
        (8, [0] * 8 + [1] * 8, 80, ""),
        (16, [0] * 8 + [1] * 8, 80, "mesh.fsdp=8 with mesh.data=-1 fits too"),
        (16, [0] * 8 + [1] * 8, 0.001, ""),  # it does not fit in a host
        (4, [0, 1] * 8, 80, "not numbered in a row"),
        (16, [0] * 16, 80, ""),
        (16, list(range(16)), 80, "mesh.fsdp=1 with"),  # a GPU per host
    ],
)
def test_a_mesh_that_sends_parameters_between_hosts_without_need_is_one_line(
    fsdp: int, hosts: list[int], gib: float, expected: str
) -> None:
    config = config_of()
    config.update({"global_batch_size": 16})
    mesh = {"data": 16 // fsdp, "fsdp": fsdp, "expert": 1}
    lines = list(mesh_across_hosts(config, mesh, hosts, 1280, int(gib * GIB)))
    assert len(lines) == bool(expected)
    assert expected in "".join(lines)


def test_a_faster_gpu_takes_less_time() -> None:
    rates = [
        estimate(config_of(), gpu_named(name), 1, compiles=False, say=lambda line: None)["stages"][0]
        for name in ("h200", "h100", "a100-80gb", "l4")
    ]
    speeds = [each["tokens_per_second"] for each in rates]
    assert speeds == sorted(speeds, reverse=True)


# Hardware


def test_the_memory_that_jax_takes_is_the_configs_share() -> None:
    config = get_config()
    for fraction in (0.9, 0.5):
        config.runtime.memory_fraction = fraction
        assert usable_bytes(config, gpu_named("h100")) == int(fraction * 80e9)


def planned(usable: float, remat: str = "auto", backend: str = "gpu", layers: str = "unrolled") -> StepPlan:
    config = config_of(remat=remat, scan_layers=layers == "scanned")
    return plan_steps(config, vocab_size=1280, num_devices=1, backend=backend, usable_bytes=usable)[0]


@pytest.mark.parametrize("layers", REMAT_BY_SPEED)
def test_auto_is_the_fastest_remat_that_fits_in_a_gpu(layers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(1, layers=layers).model_config.remat == "none", "a small model fits everywhere"
    monkeypatch.setattr(step_plan, "SMALL_PARAMETERS", 0)
    peaks = [planned(0, remat, layers=layers).peak_bytes() for remat in REMAT_BY_SPEED[layers]]
    assert peaks == sorted(peaks, reverse=True)
    for remat, peak in zip(REMAT_BY_SPEED[layers], peaks, strict=True):
        assert planned(1.01 * peak / FILLED_SHARE, layers=layers).model_config.remat == remat


def test_auto_takes_the_least_where_nothing_fits_and_keeps_all_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_plan, "SMALL_PARAMETERS", 0)
    assert planned(1).model_config.remat == "full", "where nothing fits, the least"
    assert planned(1, backend="cpu").model_config.remat == "none", "a CPU has the memory of the host"
    assert planned(1, remat="qkv_mlp").model_config.remat == "qkv_mlp", "what is set is kept"


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", CONFIG, "--gpu", "h10"), "--gpu h10: not in the table; did you mean 'h100'?"),
        (("--config", "configs/none.py", "--gpu", "h100"), "--config=configs/none.py: no such file"),
        (
            ("--config", CONFIG, "--gpu", "h100", "--config.mesh.fsdp=3"),
            "mesh.fsdp=3 does not divide the number of devices, 1;",
        ),
        (("--config", CONFIG, "--gpu", "t4"), "t4 has no bfloat16; add --config.model.dtype=float16"),
        (("--config", CONFIG, "--gpu", "h100", "--num-gpus", "0"), "--num-gpus 0 must be at least 1"),
        (("--config", CONFIG, "--gpu", "h100", "--tokens", "0"), "--tokens 0 must be above 0"),
        (("--config", CONFIG, "--gpu", "h100", "--price", "-1"), "--price -1 must be at least 0"),
        (("--config", "configs/quickstart.py", "--gpu", "h100"), "model.vocab_size=0 takes the size of the tokenizer"),
        (("--config", CONFIG, "--gpu", "h100", "--data", "nowhere"), "no token rows here"),
        (("--config", CONFIG, "--gpu", "h100", "--data", "data/tokens"), "data/tokens: no token rows here"),
        (("--config", CONFIG, "--gpu", "h100", "--config.data.dir=data/mine"), "data/mine: no token rows here"),
    ],
)
def test_a_mistake_is_an_error_of_one_line(arguments: tuple[str, ...], message: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, "--no-compile"])
    monkeypatch.chdir(SCRIPT.parents[1])
    with pytest.raises(SystemExit) as ended:
        run_command(runpy.run_path(str(SCRIPT))["main"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


# The command


def test_the_command_tells_epochs_and_what_it_cannot_tell(rows: Path, tmp_path: Path) -> None:
    more = [f"--data={rows}", "--config.seq_len=1024", "--tokens=1e9", f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--config={CONFIG}", "--gpu=a100-40gb", "--num-gpus=4", *more],
        cwd=SCRIPT.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not compiled (only h100 and h200 are described for the compiler, not a100-40gb)" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["run"]["tokens"] == pytest.approx(1e9, rel=1e-2)
    assert set(figures["epochs"]) == {"km", "en"}
    assert f"{figures['epochs']['km']:.2f}" in done.stdout


def test_an_estimate_needs_no_token_rows_in_the_folder_of_a_config_but_a_length(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = get_config()
    config.data.dir = "data/chat"
    settings: dict[str, Any] = {"compiles": False, "say": lambda line: None}
    assert estimate(config, gpu_named("h100"), 1, **settings)["epochs"] is None
    config.steps, config.epochs = 0, 3.0
    with pytest.raises(UserError, match=r"in epochs of token rows, which are not there \(data/chat\); add --tokens N"):
        estimate(config, gpu_named("h100"), 1, **settings)
    assert estimate(config, gpu_named("h100"), 1, tokens=1e9, **settings)["run"]["tokens"] == pytest.approx(
        1e9, rel=1e-2
    )


# Out of memory


def too_much() -> None:
    jnp.zeros(2**45).block_until_ready()


def test_running_out_of_memory_is_told_with_what_needs_it() -> None:
    message = r"out of memory on .*, .* GiB usable: a step with 8 sequences of 64 tokens at once"
    with pytest.raises(UserError, match=message), explain_out_of_memory(config_of()):
        too_much()


def test_other_failures_of_the_runtime_stay_as_they_are() -> None:
    def fail() -> None:
        jax.pure_callback(lambda: 1 / 0, jax.ShapeDtypeStruct((), jnp.float32)).block_until_ready()

    with pytest.raises(jax.errors.JaxRuntimeError), explain_out_of_memory(config_of()):
        fail()


def test_the_advice_names_a_micro_batch_that_fits() -> None:
    (plan,) = plan_steps(config_of(), vocab_size=1280, num_devices=1, backend="cpu", usable_bytes=0)
    usable = sum(plan.memory(2).values())
    advice = out_of_memory_advice(config_of(), 1280, 1, "cpu", usable)
    assert "set micro_batch_size=2, which needs about" in advice
    assert "which should fit; look whether another program" in out_of_memory_advice(config_of(), 1280, 1, "cpu", GIB)
    assert "not even one sequence fits; set model.remat=full" in out_of_memory_advice(config_of(), 1280, 1, "cpu", 100)


@pytest.mark.slow  # half a minute: a CPU goes a long way before it finds that it has too little
def test_a_run_that_does_not_fit_ends_with_one_line(rows: Path, tmp_path: Path) -> None:
    done = TinyRun(rows, tmp_path / "run").run(f"model.d_ff={2**40}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: out of memory on cpu"), done.stderr
    assert done.stderr.count("\n") == 1
    assert "not even one sequence fits" in done.stderr


# The compiler (needs JAX's CUDA plugin; no GPU)


@pytest.mark.slow
@pytest.mark.skipif(why_not_compiled(gpu_named("h100")) is not None, reason="needs JAX's CUDA plugin")
def test_the_compiled_step_needs_what_the_estimate_says() -> None:
    """Within a twentieth, for a shape wide enough that the parts that grow stand out."""
    config = config_of(num_layers=8, d_model=1024, num_heads=16, d_ff=4096, context_length=1024)
    config.update({"seq_len": 1024, "global_batch_size": 64})
    figures = estimate(config, gpu_named("h100"), 8, say=lambda line: None)
    (stage,) = figures["stages"]
    assert stage["compiled"]["peak_bytes"] == pytest.approx(sum(stage["memory"].values()), rel=0.05)


def test_an_estimate_says_that_teachers_are_not_counted() -> None:
    config, said = config_of(), list[str]()
    config.distill.teachers = ("runs/a", "runs/b")
    estimate(config, gpu_named("h100"), 1, compiles=False, say=said.append)
    assert said[0].startswith("not counted: config.distill.teachers (2); each adds its parameters to the memory")


@pytest.mark.full
def test_lora_keeps_the_base_in_the_compute_dtype_and_moments_of_the_adapters_alone() -> None:
    lora = Lora(rank=8, alpha=16.0, dropout=0.0, targets=LORA_TARGETS)
    model = replace(MODEL, dtype="bfloat16")
    whole, parts = memory(model), memory(model, lora=lora)
    adapters = 4 * lora.num_parameters(model)
    assert parts["moments"] == pytest.approx(2 * adapters, abs=16)
    assert parts["gradients"] <= adapters
    assert parts["parameters"] - adapters == pytest.approx(whole["parameters"] / 2, rel=0.03)  # norms stay float32
    flops = flops_by_part(model, 64, lora)
    assert lora.flops_per_token(model, 64) == pytest.approx(flops["gemm"] + flops["head"] + flops["attention"])


def test_the_figures_of_a_lora_run_name_what_is_trained() -> None:
    config = config_of()
    config.init_from, config.lora.rank = "base", 8
    config.optimizer.name = "adamw"
    text = estimate_as_text(estimate(config, gpu_named("h100"), 1, compiles=False, say=lambda line: None))
    assert ", 0.12 M trained (LoRA)" in text
