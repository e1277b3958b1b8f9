"""Documents that cuDNN takes by their offsets: the offsets, what is computed with them, and when the mask is used instead."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as fused_attention
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from tests.support.cudnn_stand_in import cudnn_on_a_cpu
from tests.support.eight_devices import run_on_eight_devices
from tests.support.tiny_model import config_with, random_params
from tonsai_jax.model import cudnn_packed
from tonsai_jax.model.attention import choose_attention_backend, segment_mask
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.cudnn_packed import documents_per_sequence
from tonsai_jax.model.document_attention import difference_on_this_gpu, document_attention, pack
from tonsai_jax.planning.described_gpu import cudnn_attention_without_a_gpu
from tonsai_jax.training.state import model_graph

T = 24  # two documents per sequence have a place
GROUPED_QUERIES = config_with(
    position="rope",
    norm="rmsnorm",
    mlp="swiglu",
    bias=False,
    num_heads=4,
    num_kv_heads=2,
    dtype="bfloat16",
    attention="auto",
)
pack_on_one = jax.jit(cudnn_packed.pack)


def segments_of(*rows: list[int]) -> np.ndarray:
    """Segments with these lengths, one list per sequence."""
    return np.stack([np.repeat(np.arange(len(lengths)), lengths) for lengths in rows]).astype(np.int32)


def mask_of(packing: cudnn_packed.Packing) -> np.ndarray:
    """The mask that cuDNN has no need of, from its tables alone: bool [B * T, B * T]."""
    lengths, begins = (np.asarray(table).reshape(-1) for table in packing[1:3])
    tokens = np.asarray(packing.segments_BxT).size
    mask = np.zeros((tokens, tokens), bool)
    for begin, length in zip(begins, lengths, strict=False):
        mask[begin : begin + length, begin : begin + length] = np.tri(length, dtype=bool)
    return mask


@pytest.mark.parametrize(
    "segments",
    [
        segments_of([T], [T]),
        segments_of([5, T - 5], [T]),
        segments_of([1, 1, T - 2], [T]),  # more than two in a sequence, but not in two sequences
        segments_of([T], [1, 1, T - 2]),
        segments_of([T]) + 7,  # numbers do not begin at 0
        3 * segments_of([T - 1, 1], [1, T - 1]),  # and leave numbers out
    ],
    ids=["one each", "two and one", "one after three", "three after one", "from 7", "gaps"],
)
def test_the_offsets_are_those_of_the_mask(segments: np.ndarray) -> None:
    packing = pack_on_one(jnp.asarray(segments))
    assert np.asarray(packing.fits_B).all()
    expected = np.zeros((segments.size, segments.size), bool)
    for row, mask in enumerate(np.asarray(segment_mask(jnp.asarray(segments)))[:, 0]):
        expected[row * T : (row + 1) * T, row * T : (row + 1) * T] = mask
    np.testing.assert_array_equal(mask_of(packing), expected)
    begins = np.asarray(packing.begins_BxM1).reshape(-1)
    assert begins[0] == 0
    assert begins[np.asarray(packing.lengths_BxM).astype(bool).sum() :].tolist() == [segments.size] * (
        begins.size - np.asarray(packing.lengths_BxM).astype(bool).sum()
    )


def test_a_batch_with_too_many_documents_does_not_fit() -> None:
    for lengths, fits in (([6] * 4, False), ([6, 6, 12], True), ([1] * T, False)):
        assert np.asarray(pack_on_one(jnp.asarray(segments_of(lengths, [T]))).fits_B).tolist() == [fits] * 2


def test_there_is_a_place_for_documents_of_128_tokens_but_no_more_than_16() -> None:
    assert [documents_per_sequence(length) for length in (16, 512, 2048, 8192)] == [2, 4, 16, 16]


# The whole path, with a stand-in for cuDNN's kernels.


@pytest.fixture
def cudnn() -> Iterator[None]:
    with cudnn_on_a_cpu():
        yield


def gradients_of(config: ModelConfig, attention_backend: str, segments: np.ndarray) -> Any:
    """The sum of the outputs, and its gradients."""
    params = random_params(config)
    graph = model_graph(config, attention_backend)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, segments.shape)

    def loss(params: Any) -> jax.Array:
        x_BxTxD, _ = nnx.merge(graph, params)(tokens, segments_BxT=jnp.asarray(segments))
        return jnp.sum(x_BxTxD.astype(jnp.float32) ** 2 * jnp.sin(jnp.arange(x_BxTxD.size)).reshape(x_BxTxD.shape))

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.full
@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize(
    ("lengths", "remat"),
    [([5, T - 5], "qkv_mlp"), ([1] * T, "none")],
    ids=["packed", "too many documents"],
)
def test_packed_documents_have_the_loss_and_gradients_of_the_mask(lengths: list[int], remat: str) -> None:
    """Of a model with grouped-query attention; the second batch does not fit, so it must take the mask."""
    config = replace(GROUPED_QUERIES, remat=remat)
    segments = segments_of(lengths, [T])
    packed, masked = (gradients_of(config, backend, segments) for backend in ("cudnn_packed", "xla"))
    for mine, right in zip(jax.tree.leaves(packed), jax.tree.leaves(masked), strict=True):
        error = np.linalg.norm(np.asarray(mine, np.float32) - np.asarray(right, np.float32))
        assert error <= 0.03 * np.linalg.norm(np.asarray(right, np.float32))  # bfloat16


def check_eight_devices() -> None:
    """Each device packs its own sequences, and has the values that it has alone. The first one has too many documents."""
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    segments = segments_of([1] * T, *([number + 1, T - number - 1] for number in range(7)))
    packing = jax.jit(pack, static_argnums=1)(jnp.asarray(segments), mesh)
    for of_all, *of_each in zip(packing, *(pack_on_one(row[None]) for row in segments), strict=True):
        np.testing.assert_array_equal(of_all, np.concatenate(of_each))
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(8, T, heads, 8)), jnp.bfloat16) for heads in (4, 2, 2))

    @partial(jax.jit, static_argnums=4)
    def gradients(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, mesh: Mesh | None) -> Any:
        attend = partial(document_attention, packing=pack(segments, mesh), scale=1.0, mesh=mesh)
        return jax.grad(lambda *qkv: jnp.sum(attend(*qkv).astype(jnp.float32) ** 2), (0, 1, 2))(q, k, v)

    with cudnn_on_a_cpu():
        together = gradients(q, k, v, jnp.asarray(segments), mesh)
        alone = [gradients(*(each[row : row + 1] for each in (q, k, v, segments)), None) for row in range(8)]
        of_one = jax.shard_map(
            lambda *arrays: gradients(*arrays, mesh),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P("data"),
            check_vma=False,
        )
        in_a_split_step = jax.jit(of_one)(q, k, v, jnp.asarray(segments))
    jax.tree.map(np.testing.assert_array_equal, in_a_split_step, together)
    for of_all, *of_each in zip(together, *alone, strict=True):
        np.testing.assert_array_equal(of_all, np.concatenate(of_each))


@pytest.mark.full
def test_eight_devices_compute_what_each_computes_alone() -> None:
    run_on_eight_devices(check_eight_devices)


def primitives(jaxpr: Any) -> list[str]:
    """The names of all primitives of a traced program, of those in its branches and loops too."""
    names = []
    for equation in jaxpr.eqns:
        names.append(equation.primitive.name)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda each: hasattr(each, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            names += primitives(inner) if hasattr(inner, "eqns") else []
    return names


def primitives_of_a_step(remat: str) -> list[str]:
    config = replace(GROUPED_QUERIES, remat=remat)
    graph, params = model_graph(config, "cudnn_packed"), random_params(config)
    segments = jnp.asarray(segments_of([5, T - 5]))

    def loss(params: Any) -> jax.Array:
        return nnx.merge(graph, params)(segments, segments_BxT=segments)[0].astype(jnp.float32).sum()

    with cudnn_attention_without_a_gpu():
        return primitives(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)


@pytest.mark.parametrize("remat", ["none", "qkv_mlp", "offload"])
def test_the_packed_forward_pass_and_its_condition_run_once(remat: str) -> None:
    names = primitives_of_a_step(remat)
    # Of a loop over layers.
    assert names.count("dot_product_attention_fwd") == names.count("dot_product_attention_bwd") == 1
    assert names.count("cond") == primitives_of_a_step("none").count("cond")


# When they are packed


def on_a_gpu(**changes: Any) -> tuple[str, str]:
    return choose_attention_backend(replace(GROUPED_QUERIES, **changes), "gpu", has_documents=True)


def test_documents_are_packed_on_a_gpu() -> None:
    assert on_a_gpu() == ("cudnn_packed", "fused attention of the GPU; documents are packed, without a mask")
    assert choose_attention_backend(GROUPED_QUERIES, "gpu")[0] == "cudnn"
    assert choose_attention_backend(GROUPED_QUERIES, "cpu", has_documents=True)[0] == "xla"
    for change, obstacle in (
        ({"sliding_window": 8}, "model.sliding_window needs one"),
        ({"attention": "cudnn"}, "set by model.attention"),
    ):
        backend, reason = on_a_gpu(**change)
        assert (backend, reason.partition(": ")[2]) == ("cudnn", obstacle)


def test_a_private_function_that_is_gone_or_changed_leaves_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(ctx: Any, query: Any, key: Any, scale: float) -> None: ...

    lowering = "_dot_product_attention_bwd_cuda_lowering"
    monkeypatch.setattr(fused_attention, lowering, changed)
    backend, reason = on_a_gpu()
    assert backend == "cudnn"
    assert "documents have a mask, which is slower: the private functions of JAX" in reason
    assert "operands of _dot_product_attention_bwd: query, key" in reason
    monkeypatch.delattr(fused_attention, lowering)
    assert lowering in on_a_gpu()[1]


@pytest.mark.full
def test_the_start_of_a_run_finds_a_gpu_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GROUPED_QUERIES
    with cudnn_attention_without_a_gpu():
        assert "packed documents do not run here" in str(difference_on_this_gpu(config))
    with cudnn_on_a_cpu():
        assert difference_on_this_gpu(config) is None
        right = cudnn_packed._tables

        def with_the_stride_of_queries(q: jax.Array, k: jax.Array, packing: Any) -> tuple[jax.Array, ...]:
            """The error of JAX 0.10 with grouped-query attention."""
            tables = right(q, k, packing)
            return (*tables[:4], tables[3], *tables[5:])

        monkeypatch.setattr(cudnn_packed, "_tables", with_the_stride_of_queries)
        assert "packed documents differ from the mask on this GPU" in str(difference_on_this_gpu(config))
