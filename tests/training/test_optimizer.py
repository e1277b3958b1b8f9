"""Optimizers: each is Optax's, on stacked layers as on single matrices, without the rate; and the schedules of the rate."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from tests.support.eight_devices import run_on_eight_devices
from tests.support.tiny_model import CONFIG, config_with
from tests.support.train_step import BIG, assert_same, batch_of, make_step
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.choices import OPTIMIZERS
from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.model.presets import preset
from tonsai_jax.saved_config import to_json
from tonsai_jax.training.mesh import make_mesh, put_batch, shardings
from tonsai_jax.training.muon import cut_fused
from tonsai_jax.training.optimizer import decay_mask, learning_rate_schedule, make_optimizer, rate_factors
from tonsai_jax.training.run import check_optimizer
from tonsai_jax.training.state import TrainState, abstract_state, init_params, init_state, model_graph

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
RATE = 0.1


def optimizer_of(name, **changes):
    return make_optimizer(name, **({"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-4, "weight_decay": 0.1} | changes))


def normal(shapes, seed=0):
    """A tree of random arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: np.asarray(rng.standard_normal(shape), np.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def updates_of(optimizer, params, steps=3):
    """The parameters after some steps of random gradients, the last updates and the last state."""

    @jax.jit
    def step(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda p, u: p - RATE * u, params, updates), updates, state

    state, shapes = optimizer.init(params), jax.tree.map(jnp.shape, params)
    for seed in range(steps):
        params, updates, state = step(normal(shapes, seed), state, params)
    return params, updates, state


def reference_of(optimizer, params, pick, steps=3):
    """The same for an optimizer of Optax, of the part of the parameters that `pick` takes."""
    shapes, params = jax.tree.map(jnp.shape, params), pick(params)

    @jax.jit
    def step(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for seed in range(steps):
        params, state = step(pick(normal(shapes, seed)), state, params)
    return params


def arrays(tree):
    """{path: array}"""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


# Learning rate


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("cosine", {0: 0.2, 4: 1.0, 52: 0.55, 100: 0.1, 1000: 0.1}),
        ("linear", {0: 0.2, 4: 1.0, 28: 0.775, 52: 0.55, 100: 0.1, 1000: 0.1}),
        ("wsd", {0: 0.2, 4: 1.0, 60: 1.0, 70: 0.55, 100: 0.1, 1000: 0.1}),
    ],
)
def test_the_rate_at_the_corners_of_its_schedule(name, rates):
    schedule = learning_rate_schedule(
        name, peak=2.0, total_steps=100, warmup_steps=4, decay_steps=40 if name == "wsd" else 0, final_ratio=0.1
    )
    assert {step: float(schedule(jnp.int32(step))) / 2.0 for step in rates} == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_rate_without_warm_up_begins_at_its_peak(name):
    schedule = learning_rate_schedule(name, peak=2.0, total_steps=9, warmup_steps=0, decay_steps=0, final_ratio=0)
    assert float(schedule(jnp.int32(0))) == 2.0
    assert float(schedule(jnp.int32(9))) == 0.0


def test_a_schedule_that_is_not_known_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.schedule='cosin' is not known; did you mean 'cosine'\?"):
        learning_rate_schedule("cosin", peak=1.0, total_steps=9, warmup_steps=0, decay_steps=0, final_ratio=0)


@pytest.mark.parametrize(
    ("name", "mu_dtype", "message"),
    [
        ("adam", "float32", r"optimizer\.name='adam' is not known; did you mean 'adamw'\?"),
        ("adamw", "float16", r"optimizer\.mu_dtype='float16' is not known; did you mean 'bfloat16'\?"),
    ],
)
def test_an_optimizer_that_is_not_known_is_refused(name, mu_dtype, message):
    with pytest.raises(UserError, match=message):
        optimizer_of(name, mu_dtype=mu_dtype)


def test_rates_of_single_parameters_by_any_part_of_their_path():
    shapes = jax.eval_shape(lambda: init_params(CONFIG, 0))
    factors = arrays(rate_factors(shapes, {"token_embedding": 0.5, "mlp_up/kernel": 3, "blocks": 2, "bias": 0}))
    for path, factor in factors.items():
        blocks = 2 if path.startswith("blocks/") else 1
        special = {"token_embedding": 0.5, "blocks/mlp_up/kernel": 3}.get(path, 1)
        assert factor == (0 if path.endswith("/bias") else blocks * special), path


@pytest.mark.parametrize("name", ["embedding", "up/kernel", "blocks/kernel", ""])
def test_a_rate_of_what_is_no_parameter_is_refused_with_those_that_are(name):
    params = {"token_embedding": jnp.ones(2), "blocks": {"mlp_up": {"kernel": jnp.ones(2)}}}
    with pytest.raises(
        UserError, match=r"no parameter has this name; there are blocks/mlp_up/kernel, token_embedding$"
    ):
        optimizer_of("adamw", rate_of={name: 0.5}).init(params)


def test_a_rate_scales_the_update_with_its_decay_and_leaves_the_moments():
    params = normal({"token_embedding": (4, 3), "blocks": {"norm": {"scale": (3,)}}})
    for name in ("adamw", "lion"):
        _, plain, state = updates_of(optimizer_of(name), params, steps=1)
        _, scaled, scaled_state = updates_of(optimizer_of(name, rate_of={"token_embedding": 0.25}), params, steps=1)
        assert_same(scaled["token_embedding"], 0.25 * plain["token_embedding"], rtol=1e-6)
        assert_same(scaled["blocks"], plain["blocks"])
        assert_same(state, scaled_state)


def test_muon_has_a_rate_for_the_token_embedding_and_the_others_do_not():
    params = normal({"token_embedding": (4, 3), "blocks": {"attention_out": {"kernel": (1, 3, 3)}}})
    for name, factor in (("muon", 10), ("adamw", 1)):
        _, plain, _ = updates_of(optimizer_of(name), params, steps=1)
        _, scaled, _ = updates_of(optimizer_of(name, embedding_rate=10.0), params, steps=1)
        _, halved, _ = updates_of(
            optimizer_of(name, embedding_rate=10.0, rate_of={"token_embedding": 0.5}), params, steps=1
        )
        assert_same(scaled["token_embedding"], factor * plain["token_embedding"], rtol=1e-6)
        assert_same(halved["token_embedding"], factor / 2 * plain["token_embedding"], rtol=1e-6)
        assert_same(scaled["blocks"], plain["blocks"])


# Decay


def test_matrices_and_embeddings_decay_and_nothing_else():
    shapes = jax.eval_shape(lambda: init_params(CONFIG, 0))
    decays = {path for path, decayed in arrays(decay_mask(shapes)).items() if decayed}
    matrices = {f"blocks/{name}/kernel" for name in ("qkv", "attention_out", "mlp_up", "mlp_down")}
    assert decays == matrices | {"token_embedding", "position_embedding"}
    for name, leaf in arrays(shapes).items():
        assert (len(leaf.shape) - name.startswith("blocks/") >= 2) == (name in decays)


@every_optimizer
def test_decay_is_added_to_the_update(name):
    params = normal({"head": (5, 4), "blocks": {"mlp": {"kernel": (2, 4, 4), "bias": (2, 4)}}})
    _, without, _ = updates_of(optimizer_of(name, weight_decay=0.0), params, steps=1)
    _, updates, _ = updates_of(optimizer_of(name, weight_decay=0.3), params, steps=1)
    for path, update in arrays(updates).items():
        decay = 0 if path.endswith("bias") else 0.3 * arrays(params)[path]
        np.testing.assert_allclose(update, arrays(without)[path] + decay, atol=1e-6, err_msg=path)


@every_optimizer
def test_cautious_decay_is_for_the_elements_that_the_update_moves_towards_zero(name):
    params = normal({"head": (5, 4), "blocks": {"mlp": {"kernel": (2, 4, 4), "bias": (2, 4)}}}, seed=9)
    params["head"][0] = 0
    _, without, _ = updates_of(optimizer_of(name, weight_decay=0.0), params, steps=1)
    _, updates, _ = updates_of(optimizer_of(name, weight_decay=0.3, cautious_weight_decay=True), params, steps=1)
    decayed = 0
    for path, param in arrays(params).items():
        for index in np.ndindex(param.shape):
            p, u = float(param[index]), float(arrays(without)[path][index])
            towards_zero = not path.endswith("bias") and p * u >= 0
            decayed += towards_zero
            assert arrays(updates)[path][index] == pytest.approx(u + 0.3 * p * towards_zero, abs=1e-6), (path, index)
    assert 10 < decayed < 42  # some of the 52 matrix elements, not all


# AdamW, Lion and Adafactor


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", optax.adamw(RATE, b1=0.9, b2=0.95, eps=1e-4, weight_decay=0.1, mask=decay_mask)),
        ("lion", optax.lion(RATE, b1=0.9, b2=0.95, weight_decay=0.1, mask=decay_mask)),
        (
            "adafactor",
            optax.adafactor(  # its decay is a share of the parameter, not of the rate
                RATE, multiply_by_parameter_scale=False, momentum=0.9, weight_decay_rate=RATE * 0.1, weight_decay_mask=decay_mask
            ),
        ),
    ],
)  # fmt: skip
def test_an_optimizer_times_the_rate_is_that_of_optax(name, reference):
    params = normal({"qkv": {"kernel": (2, 130, 128), "bias": (2,)}}, seed=9)  # large enough to factor its moment
    ours, _, _ = updates_of(optimizer_of(name), params)
    assert_same(ours, reference_of(reference, params, lambda tree: tree), rtol=1e-5, atol=1e-6)


def test_adafactor_keeps_no_matrix_where_beta1_is_zero():
    params = {"kernel": jnp.ones((3, 130, 140))}
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(optimizer_of("adafactor", beta1=0.0).init(params)))
    assert shapes == [(), (1,), (3, 130), (3, 140)]


# Muon

D, F, H_Dh, K_Dh, E, V = 8, 12, 8, 4, 2, 10
LAYERS = 2
MODEL = {
    "token_embedding": (V, D),
    "head": (V, D),
    "final_norm": {"scale": (D,)},
    "blocks": {
        "qkv": {"kernel": (LAYERS, D, H_Dh + 2 * K_Dh), "bias": (LAYERS, H_Dh + 2 * K_Dh)},
        "attention_out": {"kernel": (LAYERS, H_Dh, D)},
        "mlp_norm": {"scale": (LAYERS, D)},
        "mlp_up": {"kernel": (LAYERS, D, 2 * F)},
        "mlp_down": {"kernel": (LAYERS, F, D)},
        "router": {"kernel": (LAYERS, D, E)},
        "experts_up": {"kernel": (LAYERS, E, D, 2 * F)},
        "experts_down": {"kernel": (LAYERS, E, F, D)},
    },
}
PARTS = {  # where a kernel that holds several matrices is cut
    "qkv": [(0, H_Dh), (H_Dh, H_Dh + K_Dh), (H_Dh + K_Dh, H_Dh + 2 * K_Dh)],
    "attention_out": [(0, D)],
    "mlp_up": [(0, F), (F, 2 * F)],
    "mlp_down": [(0, D)],
    "experts_up": [(0, F), (F, 2 * F)],
    "experts_down": [(0, D)],
}


@functools.cache
def updates_of_model(name):
    return updates_of(optimizer_of(name), normal(MODEL, seed=9))


@functools.cache
def first_muon_update():
    optimizer = optimizer_of("muon", weight_decay=0.0)
    return jax.jit(lambda gradients: optimizer.update(gradients, optimizer.init(gradients), gradients)[0])


def matrices_of(tree):
    """{kernel, layer and expert, part: matrix}, cut here by hand."""
    kernels = {name: np.asarray(tree["blocks"][name]["kernel"]) for name in PARTS}
    return {
        f"{name} {index} {part}": kernels[name][index][:, slice(*part)]
        for name, parts in PARTS.items()
        for index in np.ndindex(kernels[name].shape[:-2])
        for part in parts
    }


@pytest.mark.full
def test_muon_is_that_of_optax_for_each_matrix_of_each_layer_and_expert_by_itself():
    reference = optax.contrib.muon(RATE, beta=0.95, weight_decay=0.1, consistent_rms=0.2)
    theirs = reference_of(reference, normal(MODEL, seed=9), matrices_of)
    ours = matrices_of(updates_of_model("muon")[0])
    assert len(ours) == LAYERS * (3 + 1 + 2 + 1 + E * (2 + 1))
    for name, matrix in ours.items():
        np.testing.assert_allclose(matrix, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_beside_muon_embeddings_head_router_norms_and_biases_have_adamw():
    reference = optax.adamw(RATE, b1=0.9, b2=0.95, eps=1e-4, weight_decay=0.1, mask=decay_mask)

    def others(tree):
        kept = {name: tree["blocks"][name] for name in ("mlp_norm", "router")} | {
            "qkv": {"bias": tree["blocks"]["qkv"]["bias"]}
        }
        return tree | {"blocks": kept}  # fmt: skip

    theirs = reference_of(reference, normal(MODEL, seed=9), others)
    assert_same(others(updates_of_model("muon")[0]), theirs, rtol=1e-5, atol=1e-6)


def test_the_update_of_muon_is_orthogonal_and_as_long_as_one_of_adamw():
    gradients = normal(MODEL)
    updates = matrices_of(first_muon_update()(gradients))
    for name, gradient in matrices_of(gradients).items():
        given = np.linalg.svd(gradient, compute_uv=False) / np.linalg.norm(gradient)
        values = np.linalg.svd(updates[name], compute_uv=False) / (0.2 * np.sqrt(max(gradient.shape)))
        assert values.max() < 1.3, name  # Newton-Schulz ends near 1, by design,
        assert (values > 0.5).sum() >= (given > 0.02).sum() >= min(gradient.shape) - 1, name  # but lifts none from 0
        assert 0.12 < np.sqrt(np.mean(np.square(updates[name]))) < 0.24, name


def test_a_long_gradient_of_the_values_leaves_queries_and_keys_their_update():
    gradients = normal(MODEL)
    gradients["blocks"]["qkv"]["kernel"][..., H_Dh + K_Dh :] *= 1000
    for name, update in matrices_of(first_muon_update()(gradients)).items():
        assert not name.startswith("qkv") or np.sqrt(np.mean(np.square(update))) > 0.12


def test_a_models_kernels_are_cut_where_the_model_cuts_them():
    def matrices(**changes):
        config = config_with(**changes)
        cut = jax.eval_shape(lambda: cut_fused(init_params(config, 0)))["blocks"]
        return {name: jax.tree.map(jnp.shape, cut[name]["kernel"]) for name in PARTS if name in cut}

    L, D, F = CONFIG.num_layers, CONFIG.d_model, CONFIG.d_ff
    assert matrices() == {
        "qkv": ((L, D, D),) * 3,
        "attention_out": (L, D, D),
        "mlp_up": (L, D, F),
        "mlp_down": (L, F, D),
    }
    assert matrices(**preset("mixtral") | {"num_kv_heads": 1, "num_experts": 4}) == {
        "qkv": ((L, D, D), (L, D, D // 2), (L, D, D // 2)),
        "attention_out": (L, D, D),
        "experts_up": ((L, 4, D, F),) * 2,
        "experts_down": (L, 4, F, D),
    }


# The first moment in bfloat16


@pytest.mark.full
@every_optimizer
def test_a_first_moment_kept_in_bfloat16_gives_nearly_the_same_update(name):
    params = normal(MODEL, seed=9)
    half, half_updates, half_state = updates_of(optimizer_of(name, mu_dtype="bfloat16"), params)
    full, full_updates, full_state = updates_of_model(name)
    dtypes = {path: leaf.dtype for path, leaf in arrays(half_state).items()}
    moments = [path for path in dtypes if "/mu/" in path or "/ema/" in path]
    assert len(moments) >= len(jax.tree.leaves(params))
    for path, dtype in dtypes.items():
        assert dtype == (jnp.bfloat16 if path in moments else arrays(full_state)[path].dtype), path
        assert arrays(full_state)[path].dtype in (jnp.float32, jnp.int32), path
    for path, update in arrays(half_updates).items():
        assert update.dtype == jnp.float32
        difference = np.abs(update - arrays(full_updates)[path])
        assert np.quantile(difference, 0.9) < 0.02, path  # a sign of Lion's may turn
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True))


# In training


@functools.cache
def loss_and_gradient():
    graph, batch = model_graph(CONFIG, "xla"), batch_of()
    tokens = jnp.asarray(batch["tokens"], jnp.int32)
    real = jnp.arange(tokens.shape[1] - 1) < batch["valid"][:, None]

    def loss(params):
        model = nnx.merge(graph, params)
        logits = model.logits(model(tokens[:, :-1])[0])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]), where=real)

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize(("name", "rate"), [("adamw", 1e-2), ("muon", 1e-2), ("lion", 3e-3), ("adafactor", 1e-2)])
def test_every_optimizer_lowers_the_loss_of_a_model(name, rate):
    optimizer, params, losses = optimizer_of(name), init_params(CONFIG, 0), []
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(8):
        loss, gradients = loss_and_gradient()(params)
        losses.append(float(loss))
        updates, state = update(gradients, state, params)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    assert losses[-1] < losses[0] - 0.3, losses


@every_optimizer
def test_decay_rates_and_the_dtype_of_moments_may_change_when_a_run_goes_on(name, tmp_path: Path):
    params, _, saved = updates_of_model(name)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TrainState(jnp.int32(1), params, saved), {"step": 1})
    changed = optimizer_of(name, cautious_weight_decay=True, mu_dtype="bfloat16", rate_of={"head": 0.5})
    like = jax.eval_shape(lambda: TrainState(jnp.int32(0), params, changed.init(params)))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
    restored = checkpoints.restore_state(1, placed).opt_state
    checkpoints.close()
    assert_same(restored, jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), saved, like.opt_state))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({}, {"name": "lion"}, "optimizer.name is muon in the checkpoint, lion in the config"),
        (
            {"name": "adafactor"},
            {"name": "adafactor", "beta1": 0.0},
            "beta1 is 0.9 in the checkpoint, 0.0 in the config",
        ),
        ({"name": "adafactor"}, {"name": "adafactor", "beta1": 0.8}, None),
        ({"name": "muon"}, {"name": "muon", "beta1": 0.0}, None),
        ({}, {"weight_decay": 0.0, "learning_rate": 1.0}, None),
    ],
)
def test_the_state_of_another_optimizer_is_refused(old, new, message):
    def config(changes) -> ConfigDict:
        config = default_config()
        config.optimizer.update(changes)
        return config

    if message is None:
        check_optimizer(to_json(config(old)), config(new), Path("run"))
    else:
        with pytest.raises(UserError, match=message):
            check_optimizer(to_json(config(old)), config(new), Path("run"))


def test_a_run_of_before_there_was_a_choice_has_adamw():
    saved = to_json(default_config())
    del saved["optimizer"]["name"]
    config = default_config()
    config.optimizer.name = "adamw"
    check_optimizer(saved, config, Path("run"))


def check_updates_on_many_devices():
    """Those of Muon and Adafactor are the same on 2 x 4 devices as on one."""
    mesh = make_mesh(2, 4)
    kernels = {"muon": (2, 256, 512), "adafactor": (2, 256, 2**15)}
    for name, shape in kernels.items():
        shapes = {"blocks": {"attention_out": {"kernel": shape}}, "token_embedding": (4096, 256)}
        optimizer = optimizer_of(name)
        gradients, params = normal(shapes, seed=1), normal(shapes)
        one = gradients, optimizer.init(params), params
        eight = jax.device_put(one, shardings(one, mesh))
        if name == "adafactor":
            kernel = eight[1][0][0].v_col["blocks"]["attention_out"]["kernel"]
            assert kernel.addressable_shards[0].data.shape == (2, 2**15 // 4)
        update = jax.jit(optimizer.update)
        assert_same(jax.device_get(update(*one)), jax.device_get(update(*eight)), atol=1e-4, rtol=1e-4)


def check_a_run_with_muon_stopped_and_never_stopped():
    """On 2 x 4 devices; what is split stays split."""
    mesh, optimizer = make_mesh(2, 4), optimizer_of("muon", mu_dtype="bfloat16")
    step = make_step(BIG, mesh, optimizer=optimizer)
    start = init_state(BIG, optimizer, mesh, seed=0)
    placed = jax.tree.map(lambda leaf: leaf.sharding, start)
    assert P(None, "fsdp", None) in {sharding.spec for sharding in jax.tree.leaves(placed.opt_state)}

    def run(state, seeds):
        for seed in seeds:
            state, _ = step(state, put_batch(batch_of(seed, batch_size=16, vocab_size=512), mesh))
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        return state

    half = run(jax.tree.map(jnp.copy, start), (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        checkpoints.save(half, {"step": 2})
        restored = checkpoints.restore_state(2, abstract_state(BIG, optimizer, mesh))
        checkpoints.close()
    assert_same(jax.device_get(run(restored, (2, 3))), jax.device_get(run(start, (0, 1, 2, 3))))


def check_many_devices():
    check_updates_on_many_devices()
    check_a_run_with_muon_stopped_and_never_stopped()


@pytest.mark.full
def test_on_eight_devices_updates_are_those_of_one_and_a_resumed_run_is_one_never_stopped():
    run_on_eight_devices(check_many_devices)
