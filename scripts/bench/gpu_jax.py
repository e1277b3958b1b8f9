"""The JAX worker of gpu.py: times single operations and our training step, and gives the losses and a trace of our step."""

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_worker import attempt, emit, nvidia_smi, require_gpu, serve, time_calls, training_tokens
from our_step import compiled_with, device_batch, make_step

from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.runtime.memory import peak_memory_bytes

CHUNK_TOKENS = 4096  # the default of loss.chunk_tokens
BATCHES = 4  # on the device before the clock starts, taken in turn


def versions() -> None:
    require_gpu(jax.default_backend() == "gpu", "JAX")
    names = ("jax", "jaxlib", "flax", "optax")
    emit(part="versions", device=jax.devices()[0].device_kind, **{name: version(name) for name in names})


def check() -> None:
    """Multiplies on the GPU and names it, with its memory and how much of that was in use before JAX took its share."""
    try:
        memory = nvidia_smi(("memory.total", "memory.used"))
    except (OSError, subprocess.SubprocessError):
        memory = {}
    versions()
    ones = jnp.ones((1024, 1024), jnp.bfloat16)
    assert float((ones @ ones)[0, 0]) == 1024
    total, in_use = (memory.get(f"memory.{name}", "an unknown amount") for name in ("total", "used"))
    emit(part="check", device=jax.devices()[0].device_kind, memory=total, in_use=in_use)


def kernels(copy_bytes: int, products: list[dict[str, Any]], attentions: list[dict[str, Any]]) -> None:
    """Seconds of a copy, of matrix products and of attention, each as a single operation."""
    versions()
    attempt(partial(_copy, copy_bytes), part="kernels", what="copy", way="JAX", bytes=2 * copy_bytes)
    for product in products:
        row = {"part": "kernels", "what": product["name"], "way": "JAX", "flops": product["flops"]}
        attempt(partial(_multiply, product), **row)
    on_gpu = jax.default_backend() == "gpu"
    for case in attentions:
        for way, backward in (("cudnn", False), ("cudnn", True), ("xla", False)):
            if way == "xla" or on_gpu:
                attempt(partial(_attention, case, way, backward), **_attention_row(case, f"JAX {way}", backward))


def _copy(count: int) -> dict[str, Any]:
    return {"seconds": _time(lambda x: x + 1, jnp.arange(count // 4, dtype=jnp.float32))}


def _multiply(product: dict[str, Any]) -> dict[str, Any]:
    left, right = _normal(0, product["left"]), _normal(1, product["right"])
    return {"seconds": _time(partial(jnp.einsum, product["equation"]), left, right)}


def _attention_row(case: dict[str, Any], way: str, backward: bool) -> dict[str, Any]:
    what = f"{case['name']}, {'forward + backward' if backward else 'forward'}"
    return {"part": "kernels", "what": what, "way": way, "flops": case["flops"] * (3.5 if backward else 1)}


def _attention(case: dict[str, Any], implementation: Any, backward: bool) -> dict[str, Any]:
    B, T, H, K, Dh = (case[name] for name in ("batch", "seq_len", "num_heads", "num_kv_heads", "head_dim"))
    attend = partial(jax.nn.dot_product_attention, is_causal=True, implementation=implementation)
    q, k, v, dout = (_normal(i, (B, T, heads, Dh)) for i, heads in enumerate((H, K, K, H)))
    if not backward:
        return {"seconds": _time(attend, q, k, v)}
    return {"seconds": _time(lambda q, k, v, dout: jax.vjp(attend, q, k, v)[1](dout), q, k, v, dout)}


def _normal(seed: int, shape: Any) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), tuple(shape), jnp.bfloat16)


def _time(function: Callable[..., Any], *args: jax.Array) -> list[float]:
    compiled = jax.jit(function)

    def run(count: int) -> None:
        for _ in range(count):
            out = compiled(*args)
        jax.block_until_ready(out)

    return time_calls(run)


def losses(model: dict[str, Any], micro_batch: int, seq_len: int, steps: int, rate: float, weights: str) -> None:
    """The losses of our first steps; writes the initial parameters to the file `weights`, for PyTorch."""
    versions()
    config = ModelConfig(**model)
    state, step, mesh = make_step(config, chunk_tokens=CHUNK_TOKENS, learning_rate=rate)
    paths = jax.tree_util.tree_leaves_with_path(state.params)
    arrays: dict[str, Any] = {".".join(key.key for key in path): np.asarray(leaf) for path, leaf in paths}
    np.savez(weights, **arrays)
    del paths, arrays  # the step reuses the memory of the state
    values = []
    for number in range(steps):
        batch = device_batch(training_tokens(number, micro_batch, seq_len, config.vocab_size), mesh)
        state, metrics = step(state, batch)
        values.append(float(metrics["loss"]))
    emit(part="losses", way="ours", losses=values)


def train(
    name: dict[str, Any],
    model: dict[str, Any],
    micro_batch: int,
    seq_len: int,
    turns: int,
    steps: int,
    xla: dict[str, Any],
    trace: str | None = None,
) -> None:
    """Seconds of our whole training step, `turns` means of `steps` steps; with a folder `trace`, a profile of 3 steps instead.

    Args:
      xla: compiler options in addition to the usual ones. One that XLA does not know is an error here; in XLA_FLAGS it would end
        the process without a word.
    """
    versions()
    config = ModelConfig(**model)
    state, step, mesh = make_step(config, chunk_tokens=CHUNK_TOKENS)
    batches = [
        device_batch(training_tokens(number, micro_batch, seq_len, config.vocab_size), mesh)
        for number in range(BATCHES)
    ]

    jax.block_until_ready((state, batches))
    start = time.perf_counter()
    if xla:
        step = compiled_with(step, state, batches[0], xla)
    compile_seconds = time.perf_counter() - start

    def run(count: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for number in range(count):
            state, metrics = step(state, batches[number % BATCHES])
        loss = float(metrics["loss"])  # waits until the device has finished
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        return time.perf_counter() - start

    first_seconds = compile_seconds + run(1)
    run(2)
    if trace:
        with jax.profiler.trace(trace):
            seconds = run(3)
        _profile(Path(trace), seconds)
        return
    emit(
        part="steps",
        **name,
        micro_batch=micro_batch,
        seq_len=seq_len,
        attention=choose_attention_backend(config, jax.default_backend())[0],
        flops_per_token=config.flops_per_token(seq_len),
        first_step_seconds=first_seconds,
        seconds=[run(steps) / steps for _ in range(turns)],
        peak_bytes=peak_memory_bytes(),
    )


def _profile(folder: Path, seconds: float) -> None:
    """The GPU kernels that took the most time in the newest trace, in ms per step; on a CPU the events of the host."""
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    planes = list(jax.profiler.ProfileData.from_file(str(newest)).planes)
    device = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    nanoseconds: Counter[str] = Counter()
    for plane in device or planes:
        for line in plane.lines:
            if not device or line.name.startswith("Stream"):  # the other lines count the same time again, by module
                for event in line.events:
                    nanoseconds[re.sub(r"[._]\d+$", "", event.name)] += event.duration_ns
    emit(part="profile", what="wall clock, three steps", ms=seconds * 1e3 / 3)
    emit(part="profile", what="all kernels", ms=nanoseconds.total() / 3e6)
    for kernel, total in nanoseconds.most_common(20):
        emit(part="profile", what=kernel.replace("|", "/")[:80], ms=total / 3e6)


if __name__ == "__main__":
    serve({"check": check, "kernels": kernels, "losses": losses, "train": train})
