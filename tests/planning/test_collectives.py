"""Collectives are counted as often as they run, with the bytes of their arrays, and whether they overlap."""

import jax
import jax.numpy as jnp
import pytest

from tests.support.eight_devices import run_on_eight_devices
from tests.support.tiny_model import config_with
from tonsai_jax.planning.collectives import Links, least_bytes, read_collectives, seconds_on_the_wire
from tonsai_jax.planning.memory import described_state
from tonsai_jax.planning.program import read_program
from tonsai_jax.training.optimizer import make_optimizer

ASYNC = """
HloModule step, is_scheduled=true

%matmul (a: bf16[8,8], b: bf16[8,8]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (carry: (s32[], bf16[1,8])) -> (s32[], bf16[1,8]) {
  %carry = (s32[], bf16[1,8]{1,0}) parameter(0)
  %shard = bf16[1,8]{1,0} get-tuple-element(%carry), index=1
  %early = (bf16[1,8]{1,0}, bf16[8,8]{1,0}) all-gather-start(%shard), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %product = bf16[8,8]{1,0} fusion(%shard, %shard), kind=kCustom, calls=%matmul
  %whole = bf16[8,8]{1,0} all-gather-done(%early)
  %late = ((bf16[8,8]{1,0}, f32[8]{0}), (bf16[1,8]{1,0}, f32[1]{0})) reduce-scatter-start(%whole, %vector), dimensions={0}
  %cheap = bf16[8,8]{1,0} negate(%product)
  %piece = (bf16[1,8]{1,0}, f32[1]{0}) reduce-scatter-done(%late)
  %vector = f32[8]{0} constant({...})
  ROOT %next = (s32[], bf16[1,8]{1,0}) tuple(%shard, %shard)
}

ENTRY %main (p: bf16[1,8]) -> f32[] {
  %p = bf16[1,8]{1,0} parameter(0)
  %loop = (s32[], bf16[1,8]{1,0}) while(%p), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"24"}}
  %norm = f32[] constant(0)
  %sync = f32[] all-reduce-start(%norm), to_apply=%sum, backend_config={"collective_backend_config":{"is_sync":true}}
  %again = bf16[8,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %done = f32[] all-reduce-done(%sync)
}
"""


def test_a_loops_collectives_count_as_often_as_it_turns() -> None:
    found = read_collectives(read_program(ASYNC))
    assert {kind: each.count for kind, each in found.items()} == {
        "all-gather": 24, "reduce-scatter": 24, "all-reduce": 1,
    }  # fmt: skip
    assert found["all-gather"].dtypes == {"bf16": 24 * 8 * 8 * 2}
    assert found["reduce-scatter"].dtypes == {"bf16": 24 * 8 * 8 * 2, "f32": 24 * 8 * 4}
    assert found["all-reduce"].num_bytes == 4


def test_what_overlaps_has_a_matrix_product_between_its_start_and_its_end() -> None:
    found = read_collectives(read_program(ASYNC))
    assert found["all-gather"].overlapped_bytes == found["all-gather"].num_bytes
    assert found["reduce-scatter"].overlapped_bytes == 0
    assert found["all-reduce"].overlapped_bytes == 0  # the GPU waits for it, whatever stands between


def check_the_reader_on_a_real_program() -> None:
    from functools import partial

    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P("fsdp", None), P()), out_specs=(P("fsdp", None), P()))
    def step(shard, x):
        def layer(x, _):
            whole = jax.lax.all_gather(shard, "fsdp", tiled=True)  # depends on nothing that changes in the loop
            return jnp.tanh(jax.lax.psum(x @ (whole + x[0, 0]), "fsdp") / 8), None

        x = jax.lax.pcast(x, "fsdp", to="varying")
        x, _ = jax.lax.scan(lambda x, y: (jax.lax.pcast(layer(x, y)[0], "fsdp", to="varying"), None), x, length=3)
        return jax.lax.psum_scatter(jnp.ones((64, 64)) * x[0, 0], "fsdp", tiled=True), jax.lax.psum(x, "fsdp")

    arguments = jnp.zeros((64, 64)), jnp.zeros((16, 64))
    found = read_collectives(read_program(step.lower(*arguments).compile().as_text() or ""))
    whole, x = 64 * 64 * 4, 16 * 64 * 4
    assert found["all-reduce"].num_bytes == (3 + 1) * x, found
    assert found["all-gather"].num_bytes in (whole, 3 * whole), found  # XLA may take it out of the loop
    assert found["reduce-scatter"].num_bytes == whole, found


@pytest.mark.full
def test_the_reader_on_a_real_program() -> None:
    run_on_eight_devices(check_the_reader_on_a_real_program)


def test_the_least_that_a_sharding_must_send() -> None:
    model_config = config_with(vocab_size=1280, num_layers=2, d_model=256, d_ff=512)
    optimizer = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)

    def least(data: int, fsdp: int, accumulation_steps: int = 1) -> dict[str, int]:
        sizes = {"data": data, "fsdp": fsdp, "expert": 1}
        found = least_bytes(described_state(model_config, optimizer, sizes), sizes, accumulation_steps, "bfloat16")
        return {kind: size for kind, size in found.items() if size}

    params = described_state(model_config, optimizer, {"data": 1, "fsdp": 1, "expert": 1}).params
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    kernels = sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel")
    table = model_config.padded_vocab_size * model_config.d_model
    rest = size - kernels - table  # norms, biases, positions: each below 2**16 elements, on every device alike

    assert least(1, 1) == {}
    assert least(8, 1) == least(8, 1, accumulation_steps=4) == {"all-reduce": 4 * size}
    assert least(1, 8) == {
        "all-gather": 2 * 2 * kernels + 4 * table,
        "reduce-scatter": 4 * (kernels + table),
        "all-reduce": 4 * rest,
    }
    assert least(1, 8, accumulation_steps=2)["all-gather"] == 2 * least(1, 8)["all-gather"]
    assert least(2, 4)["all-reduce"] == 4 * ((kernels + table) // 4 + rest)


def test_experts_on_devices_of_their_own_are_not_gathered_from_the_others() -> None:
    model_config = config_with(
        vocab_size=128, num_layers=2, d_model=256, d_ff=512, mlp="swiglu", num_experts=8, bias=False
    )
    optimizer = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    sizes = {"data": 1, "fsdp": 1, "expert": 8}
    state = described_state(model_config, optimizer, sizes)
    least = least_bytes(state, sizes, 1, "bfloat16")
    params = jax.tree_util.tree_leaves_with_path(state.params)
    others = sum(leaf.size for path, leaf in params if "experts" not in jax.tree_util.keystr(path))
    assert least["all-gather"] == least["reduce-scatter"] == 0
    assert least["all-reduce"] == 4 * others


def test_time_on_the_wire() -> None:
    links = Links(100.0, 1.0, 8, {"data": 1, "fsdp": 8, "expert": 1})
    assert seconds_on_the_wire({"all-gather": 800}, 8, links) == 7.0
    assert seconds_on_the_wire({"all-reduce": 800}, 8, links) == 14.0
    assert seconds_on_the_wire({"all-reduce": 800}, 1, links) == 0.0


@pytest.mark.parametrize(
    ("data", "fsdp", "expert", "gather", "reduce"),
    [
        (2, 8, 1, 100.0, 10.0),  # parameters inside a host; each GPU sums with its partner over its own card
        (4, 4, 1, 100.0, 20.0),  # two GPUs of a host are in the same sum
        (16, 1, 1, 100.0, 80.0),  # all cards of a host carry one sum
        (1, 16, 1, 80.0, 10.0),  # parameters cross the network
        (1, 8, 2, 80.0, 10.0),
        (1, 4, 2, 100.0, 100.0),  # one host
    ],
)
def test_a_collective_between_hosts_is_as_fast_as_the_cards_of_its_gpus(
    data: int, fsdp: int, expert: int, gather: float, reduce: float
) -> None:
    links = Links(100.0, 10.0, 8, {"data": data, "fsdp": fsdp, "expert": expert})
    assert (links.bandwidth("all-gather"), links.bandwidth("all-reduce")) == (gather, reduce)
    assert links.bandwidth("reduce-scatter") == links.bandwidth("all-to-all") == gather
