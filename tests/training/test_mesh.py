"""Which device holds what: the rules of sharding, and meshes and batches that cannot be are refused by name."""

from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.support.eight_devices import run_on_eight_devices
from tonsai_jax.errors import UserError
from tonsai_jax.training.mesh import (
    REPLICATED_BELOW,
    make_mesh,
    partition_spec,
    put_batch,
)

FSDP = {"fsdp": 8, "expert": 1}
LAYERS = 8  # divisible by every fsdp below: only the rule keeps that axis whole


@pytest.mark.parametrize(
    ("path", "shape", "fsdp", "spec"),
    [
        # by rule
        ("params/token_embedding", (50_048, 768), 8, P("fsdp", None)),
        ("opt_state/0/mu/token_embedding", (50_048, 768), 8, P("fsdp", None)),
        ("params/blocks/mlp_up/kernel", (LAYERS, 768, 3072), 8, P(None, "fsdp", None)),
        ("params/blocks/qkv/kernel", (LAYERS, 768, 2304), 4, P(None, "fsdp", None)),
        # no rule: the largest axis that divides
        ("params/position_embedding", (2048, 768), 8, P("fsdp", None)),
        ("params/position_embedding", (510, 768), 8, P(None, "fsdp")),
        ("params/blocks/mlp_up/bias", (LAYERS, 2**16), 8, P(None, "fsdp")),
        # a rule whose axis does not divide gives way to an axis that does
        ("params/token_embedding", (50_257, 768), 8, P(None, "fsdp")),
        ("params/blocks/mlp_up/kernel", (LAYERS, 771, 3072), 8, P(None, None, "fsdp")),
        # nothing divides: whole on every device, and the layers' axis even then
        ("params/blocks/mlp_up/kernel", (LAYERS, 771, 3073), 8, P()),
        ("params/blocks/mlp_up/bias", (2**17, 3), 8, P()),
        ("params/token_embedding", (50_257, 769), 8, P()),
        # moments with a dimension less than their parameter (Adafactor), or of a part of it (Muon)
        ("opt_state/0/0/v_row/blocks/mlp_up/kernel", (LAYERS, 2**14), 8, P(None, "fsdp")),
        ("opt_state/0/0/v_col/token_embedding", (2**17,), 8, P("fsdp")),
        ("opt_state/0/0/v/token_embedding", (1,), 8, P()),
        ("opt_state/0/inner_states/muon/0/mu/blocks/qkv/kernel/2", (LAYERS, 768, 768), 8, P(None, "fsdp", None)),
        # small, or nothing to split over
        ("params/blocks/mlp_up/kernel", (LAYERS, 64, 64), 8, P()),
        ("step", (), 8, P()),
        ("params/token_embedding", (50_048, 768), 1, P()),
    ],
)
def test_where_a_parameter_goes(path: str, shape: tuple[int, ...], fsdp: int, spec: P) -> None:
    assert partition_spec(path, shape, {"fsdp": fsdp, "expert": 1}) == spec


def test_an_array_is_small_below_a_number_of_elements() -> None:
    assert partition_spec("params/token_embedding", (REPLICATED_BELOW // 8, 8), FSDP) == P("fsdp", None)
    assert partition_spec("params/token_embedding", (REPLICATED_BELOW // 8 - 8, 8), FSDP) == P()


def test_experts_are_spread_over_their_axis_and_the_rest_is_not() -> None:
    path, shape = "params/blocks/experts_up/kernel", (LAYERS, 8, 896, 5120)
    assert partition_spec(path, shape, {"fsdp": 2, "expert": 4}) == P(None, "expert", "fsdp", None)
    assert partition_spec(path, shape, {"fsdp": 1, "expert": 4}) == P(None, "expert", "fsdp", None)
    assert partition_spec("params/blocks/qkv/kernel", (LAYERS, 896, 1152), {"fsdp": 1, "expert": 4}) == P(
        None, "fsdp", None
    )  # whole: that axis has one device
    assert partition_spec("params/position_embedding", (2048, 768), {"fsdp": 1, "expert": 4}) == P()


def check_meshes_of_eight_devices() -> None:
    assert dict(make_mesh(-1, 2, 4, num_experts=8).shape) == {"data": 1, "fsdp": 2, "expert": 4}
    with pytest.raises(UserError, match=r"mesh\.expert=4 does not divide the model's experts \(model\.num_experts=6\)"):
        make_mesh(-1, 2, 4, num_experts=6)
    with pytest.raises(UserError, match=r"model\.num_experts=0"):
        make_mesh(-1, 1, 2)
    with pytest.raises(UserError, match=r"mesh\.fsdp=3 x mesh\.expert=2 does not divide the number of devices, 8"):
        make_mesh(-1, 3, 2, num_experts=8)
    assert dict(make_mesh(-1, 1).shape) == {"data": 8, "fsdp": 1, "expert": 1}
    assert dict(make_mesh(-1, 4).shape) == {"data": 2, "fsdp": 4, "expert": 1}
    assert dict(make_mesh(2, 4).shape) == {"data": 2, "fsdp": 4, "expert": 1}
    with pytest.raises(
        UserError, match=r"mesh\.fsdp=3 does not divide the number of devices, 8; choose a divisor of 8"
    ):
        make_mesh(-1, 3)
    with pytest.raises(
        UserError, match=r"mesh\.data=2 x mesh\.fsdp=2 is 4, but the number of devices is 8; set mesh\.data=-1"
    ):
        make_mesh(2, 2)

    # As on GPUs of several hosts, which `jax.make_mesh` refuses: "expert", then "fsdp" are neighbors in the order of the hosts.
    with mock.patch.object(jax, "make_mesh", side_effect=ValueError("multi-slice topologies")):
        mesh = make_mesh(-1, 2, 2, num_experts=2)
    assert mesh.axis_names == ("data", "fsdp", "expert")
    assert list(mesh.devices.flat) == jax.devices()

    rows: dict[str, np.ndarray] = {
        "tokens": np.arange(16 * 5, dtype=np.uint16).reshape(16, 5),
        "valid": np.arange(16, dtype=np.int32),
    }
    batch = put_batch(rows, make_mesh(2, 4))
    for name, array in batch.items():
        np.testing.assert_array_equal(array, rows[name])
        assert array.dtype == rows[name].dtype
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}


def test_meshes_of_eight_devices() -> None:
    run_on_eight_devices(check_meshes_of_eight_devices)


def test_a_mesh_of_more_devices_than_there_are_is_refused() -> None:
    count = jax.device_count()
    with pytest.raises(UserError, match=f"is {2 * count}, but the number of devices is {count}"):
        make_mesh(count, 2)
