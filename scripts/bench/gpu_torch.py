"""The PyTorch worker of gpu.py: the same operations, losses and steps with a plain GPT-2 and with Transformers."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch_gpt2
from gpu_worker import attempt, emit, nvidia_smi, require_gpu, serve, time_calls, training_tokens
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
BATCHES = 4  # on the device before the timing starts, used in turn
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "driver_version", "memory.total")


def versions() -> None:
    require_gpu(ON_GPU, "PyTorch")
    cudnn = torch.backends.cudnn.version() if ON_GPU else None
    emit(part="versions", torch=torch.__version__, torch_cudnn=cudnn)


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def kernels(copy_bytes: int, products: list[dict[str, Any]], attentions: list[dict[str, Any]]) -> None:
    """Seconds of a copy, of matrix products and of attention, each as one operation; and the clocks of the GPU under load."""
    versions()
    attempt(partial(_copy, copy_bytes), part="kernels", what="copy", way="PyTorch", bytes=2 * copy_bytes)
    for product in products:
        row = {"part": "kernels", "what": product["name"], "way": "PyTorch", "flops": product["flops"]}
        attempt(partial(_multiply, product), **row)
    if ON_GPU:
        attempt(partial(_clocks, products[0]), part="versions")
    backends = {"flash": SDPBackend.FLASH_ATTENTION} | ({"cudnn": SDPBackend.CUDNN_ATTENTION} if ON_GPU else {})
    for case in attentions:
        for name, backend in backends.items():
            for backward in (False, True):
                what = f"{case['name']}, {'forward + backward' if backward else 'forward'}"
                row = {"what": what, "way": f"PyTorch {name}", "flops": case["flops"] * (3.5 if backward else 1)}
                attempt(partial(_attention, case, backend, backward), part="kernels", **row)


def _copy(count: int) -> dict[str, Any]:
    source = torch.arange(count // 4, dtype=torch.float32, device=DEVICE)
    target = torch.empty_like(source)
    return {"seconds": _time(lambda: target.copy_(source))}


def _multiply(product: dict[str, Any]) -> dict[str, Any]:
    left, right = _normal(product["left"]), _normal(product["right"])
    return {"seconds": _time(lambda: torch.einsum(product["equation"], left, right))}


def _clocks(product: dict[str, Any]) -> dict[str, Any]:
    """What nvidia-smi reports while the GPU computes."""
    left, right = _normal(product["left"]), _normal(product["right"])
    for _ in range(500):
        torch.einsum(product["equation"], left, right)
    under_load = nvidia_smi(CLOCKS)
    synchronize()
    return {"under_load": under_load}


def _attention(case: dict[str, Any], backend: SDPBackend, backward: bool) -> dict[str, Any]:
    B, T, H, K, Dh = (case[name] for name in ("batch", "seq_len", "num_heads", "num_kv_heads", "head_dim"))
    # In memory as a model's reshaped projection, [B, T, heads, Dh], used as [B, heads, T, Dh].
    q, k, v, dout = (_normal((B, T, heads, Dh)).transpose(1, 2) for heads in (H, K, K, H))
    attend = partial(nn.functional.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=H != K)
    with sdpa_kernel(backend):
        if not backward:
            return {"seconds": _time(attend)}
        for tensor in (q, k, v):
            tensor.requires_grad_()
        return {"seconds": _time(lambda: torch.autograd.grad(attend(), (q, k, v), dout))}


def _normal(shape: Any) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def _time(call: Callable[[], Any]) -> list[float]:
    def run(count: int) -> None:
        for _ in range(count):
            call()
        synchronize()

    return time_calls(run)


def losses(model: dict[str, Any], micro_batch: int, seq_len: int, steps: int, rate: float, weights: str) -> None:
    """The losses of the first steps of the plain GPT-2, from the parameters that gpu_jax.py wrote."""
    versions()
    gpt2 = _plain_gpt2(model)
    torch_gpt2.load_ours(gpt2, dict(np.load(weights)))
    step = _make_step(gpt2, gpt2, rate)
    values = []
    for number in range(steps):
        tokens = training_tokens(number, micro_batch, seq_len, model["vocab_size"])
        values.append(step([_on_device(tokens)]).item())
    emit(part="losses", way="PyTorch", losses=values)


def train(
    name: dict[str, Any],
    model: dict[str, Any],
    micro_batch: int,
    seq_len: int,
    turns: int,
    steps: int,
    attention: str | None,
    compile_backend: str | None,
) -> None:
    """Seconds of a step over `micro_batch` sequences, in as few micro-batches as memory allows; see gpu_jax.train.

    Args:
      name: the case's `model_name`, `library` ("PyTorch": the plain GPT-2, or "Transformers") and `variant`.
      attention: "flash" or "cudnn", the only backend allowed; None leaves the choice to PyTorch.
      compile_backend: of torch.compile; None is eager.
    """
    versions()
    torch.set_float32_matmul_precision("high")
    for way in ("flash", "cudnn", "mem_efficient", "math") if ON_GPU and attention else ():
        getattr(torch.backends.cuda, f"enable_{way}_sdp")(way == attention)
    gpt2 = _plain_gpt2(model) if name["library"] == "PyTorch" else _transformers_gpt2(model)
    forward = torch.compile(gpt2, backend=compile_backend, dynamic=False) if compile_backend else gpt2
    step = _make_step(gpt2, forward, rate=3e-4)
    batches = [
        _on_device(training_tokens(number, micro_batch, seq_len, model["vocab_size"])) for number in range(BATCHES)
    ]

    def run(count: int) -> float:
        start = time.perf_counter()
        for number in range(count):
            loss = step(batches[number % BATCHES].split(part_size))
        if not np.isfinite(loss.item()):  # waits until the device has finished
            raise FloatingPointError(f"the loss is {loss.item()}")
        return time.perf_counter() - start

    part_size, first_seconds = micro_batch, 0.0
    while not first_seconds:
        try:
            first_seconds = run(1)
        except torch.OutOfMemoryError:
            if part_size == 1:
                raise
        if not first_seconds:  # not in the `except` block: the exception still holds the tensors
            part_size //= 2
            gpt2.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
    run(2)
    emit(
        part="steps",
        **name,
        micro_batch=part_size,
        seq_len=seq_len,
        attention=attention or "PyTorch's choice",
        sequences=micro_batch,
        first_step_seconds=first_seconds,
        seconds=[run(steps) / steps for _ in range(turns)],
        peak_bytes=torch.cuda.max_memory_allocated() if ON_GPU else None,
    )


def _plain_gpt2(model: dict[str, Any]) -> nn.Module:
    with DEVICE:
        return torch_gpt2.GPT2(
            model["vocab_size"], model["context_length"], model["num_layers"], model["num_heads"], model["d_model"]
        )


def _transformers_gpt2(model: dict[str, Any]) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel, __version__

    emit(part="versions", transformers=__version__)
    values: dict[str, Any] = {
        "vocab_size": model["vocab_size"],
        "n_positions": model["context_length"],
        "n_embd": model["d_model"],
        "n_layer": model["num_layers"],
        "n_head": model["num_heads"],
        "n_inner": model["d_ff"],
        "use_cache": False,
        "attn_implementation": "sdpa",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }

    class Loss(nn.Module):
        """Takes inputs and targets as the plain GPT-2; the model shifts the labels itself, so one target is lost."""

        def __init__(self) -> None:
            super().__init__()
            self.model = GPT2LMHeadModel(GPT2Config(**values))

        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=inputs, labels=inputs).loss

    with DEVICE:
        return Loss().train()


def _make_step(model: nn.Module, forward: Callable[..., torch.Tensor], rate: float) -> Callable[..., torch.Tensor]:
    """A step over micro-batches of tokens [B, T + 1]: bfloat16 by autocast, fused AdamW, clipping at 1."""
    optimizer = torch_gpt2.adamw(model, rate, fused=True)

    def step(parts: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros((), device=DEVICE)
        for tokens in parts:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = forward(tokens[:, :-1], tokens[:, 1:]) / len(parts)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


def _on_device(tokens: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tokens.astype(np.int64)).to(DEVICE)


if __name__ == "__main__":
    serve({"kernels": kernels, "losses": losses, "train": train})
