"""What the devices of a step send each other, and that kinds of steps give on many devices what they give on one."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.support.eight_devices import run_on_eight_devices
from tests.support.train_step import ADAMW, BIG, COSINE, T, batch_of, one_device
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.model.config import LORA_TARGETS, Lora
from tonsai_jax.planning.collectives import KINDS, least_bytes, read_collectives
from tonsai_jax.planning.program import array_bytes, read_program
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.mesh import make_mesh, put_batch
from tonsai_jax.training.state import init_state, model_graph
from tonsai_jax.training.step import LossSettings, make_train_step

TWO_MICRO_BATCHES = MicroBatch(1)  # of 16 sequences on 8 devices
LORA = Lora(rank=4, alpha=16.0, dropout=0.0, targets=LORA_TARGETS)


def state_and_step(config, mesh, lora=None):
    step = make_train_step(
        model_graph(config, "xla", mesh, lora),
        ADAMW,
        COSINE,
        mesh,
        loss=LossSettings(chunk_tokens=32, z_loss=1e-4),
        end_of_text_id=0,
        dropout_key=jax.random.key(1),
        clip_norm=1.0,
        micro_batch=TWO_MICRO_BATCHES,
    )
    return init_state(config, ADAMW, mesh, seed=0, lora=lora), step


def conversations(seed):
    """Rows of two segments each, where answers alone count in the loss."""
    batch = batch_of(seed, batch_size=16, vocab_size=512)
    marks = np.zeros((16, T + 1), np.uint8)
    marks[:, [0, 9]] |= BEGIN
    marks[:, 4:7] |= ANSWER
    marks[::3, 12:15] |= ANSWER
    return batch | {"marks": marks}


def program_of(config, mesh):
    state, step = state_and_step(config, mesh)
    batch = put_batch(batch_of(batch_size=16, vocab_size=512), mesh)
    return state, read_program(step.lower(state, batch).compile().as_text())


def check_what_is_sent():
    mesh = make_mesh(8, 1)
    state, program = program_of(BIG, mesh)
    least = least_bytes(state, mesh.shape, 2, BIG.dtype)["all-reduce"]
    sent = read_collectives(program)
    assert set(sent) == {"all-reduce"}
    assert least <= sent["all-reduce"].num_bytes < 1.001 * least, (sent, least)  # once, not for each micro-batch

    for tied, tables in ((True, 1), (False, 2)):
        config = dataclasses.replace(
            BIG, vocab_size=640, tie_embeddings=tied
        )  # so no other array is as large as its tables
        state, program = program_of(config, make_mesh(1, 8))
        table = state.params["token_embedding"].nbytes
        kinds = [
            kind
            for name, times in program.times_run().items()
            for each in program.computations[name]
            for kind in [each.operation.removesuffix("-start")] * times
            if kind in KINDS and table in array_sizes(program, name, each)
        ]
        assert sorted(kinds) == tables * ["all-gather"] + tables * ["reduce-scatter"], kinds


def array_sizes(program, computation, instruction):
    """Bytes of the arrays that an instruction takes or gives."""
    types = {each.name: each.type for each in program.computations[computation]}
    names = [types[name] for name in instruction.operands if name in types]
    return [sum(array_bytes(text).values()) for text in (instruction.type, *names)]


def check_kinds_of_steps():
    small = dataclasses.replace(BIG, num_layers=1)
    check_same_as_one(small, LORA, atol=1e-5, rtol=1e-5)
    untied_float16 = dataclasses.replace(small, tie_embeddings=False, dtype="float16")  # it has a loss scale
    check_same_as_one(untied_float16, None, atol=3e-4, rtol=3e-4)


def check_same_as_one(config, lora, **tolerance):
    """Two steps on one device and on eight, where parameters are whole and where they are split."""
    meshes = [one_device(), make_mesh(8, 1), make_mesh(1, 8)]
    one, *many = [results(config, mesh, lora) for mesh in meshes]
    for each in many:
        jax.tree.map(partial(np.testing.assert_allclose, **tolerance), one, each)


def results(config, mesh: Mesh, lora):
    state, step = state_and_step(config, mesh, lora)
    metrics = []
    for seed in range(2):
        state, got = step(state, put_batch(conversations(seed), mesh))
        metrics.append(jax.device_get(got))
    whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(state.params)
    return jax.device_get(whole), metrics


def check_all():
    check_what_is_sent()
    check_kinds_of_steps()


@pytest.mark.full
def test_tables_and_gradients_are_sent_once_and_eight_devices_give_what_one_gives():
    run_on_eight_devices(check_all)
