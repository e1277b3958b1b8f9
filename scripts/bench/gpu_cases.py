"""What gpu.py measures, in order: correctness, the main comparison, single operations, then variants while time is left.

To measure another model, add its `ModelConfig` values to MODELS and a `Case` to VARIANTS. The time limits of one call must
fit into nine minutes (CALLS in tests/scripts/test_gpu_bench.py).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import preset

GPT2_BASE = {"vocab_size": 50_304, "dtype": "bfloat16"}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2_500m": GPT2_BASE | {"context_length": 2048, "num_layers": 24, "num_heads": 24, "d_model": 1536, "d_ff": 6144},
    "gpt2_124m": GPT2_BASE | {"context_length": 1024, "num_layers": 12, "num_heads": 12, "d_model": 768, "d_ff": 3072},
    "moe_1b": {
        **preset("mixtral"),
        "vocab_size": 96_000,
        "dtype": "bfloat16",
        "context_length": 8192,
        "num_layers": 24,
        "num_heads": 14,
        "num_kv_heads": 2,
        "d_model": 896,
        "d_ff": 2560,
        "rope_theta": 10_000.0,
        "rope_scaling": "yarn",
        "rope_factor": 4.0,
        "router_temperature": 1.2,
    },
}
TOY = {"vocab_size": 256, "context_length": 32, "num_layers": 1, "num_heads": 2, "d_model": 64, "d_ff": 256}
LOSSES: dict[str, Any] = {"model": "gpt2_124m", "micro_batch": 8, "seq_len": 1024, "steps": 20, "rate": 1e-3}


@dataclass(frozen=True)
class Case:
    """One training step to time.

    Attributes:
      variant: its name in the table.
      library: "ours", "PyTorch" or "Transformers".
      options: for ours, more values of `ModelConfig`; for the others `attention` and `compile_backend` of gpu_torch.train.
      seconds: time limit of its process, compiling included.
      xla: options of the XLA compiler for our step, by their names in XLA_FLAGS.
    """

    variant: str
    library: str
    micro_batch: int
    options: dict[str, Any]
    seconds: int
    model: str = "gpt2_500m"
    seq_len: int = 2048
    xla: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One process: a task of a worker script with its arguments, its time limit in seconds and the package that it needs."""

    group: str
    title: str
    script: str
    task: str
    arguments: dict[str, Any]
    seconds: int
    needs: str


FLASH = {"attention": "flash", "compile_backend": "inductor"}
CUDNN = {"attention": "cudnn", "compile_backend": "inductor"}
EAGER = {"attention": None, "compile_backend": None}
UNROLLED = {"scan_layers": False, "remat": "none"}
REMAT = {"scan_layers": False, "remat": "qkv_mlp"}
COMPILED_ALREADY = 50  # seconds: the program comes from the cache of the first process of the same case

OURS = Case("unrolled, no remat", "ours", 16, UNROLLED, 150)
COMPILED = Case("compile, SDPA flash, fused AdamW", "PyTorch", 16, FLASH, 100)
MAIN = (OURS, COMPILED, replace(COMPILED, seconds=COMPILED_ALREADY), replace(OURS, seconds=COMPILED_ALREADY))  # ABBA
TRANSFORMERS = (
    Case("GPT2LMHeadModel as its Trainer does", "Transformers", 16, EAGER, 70),
    Case("compile, SDPA cuDNN, fused AdamW", "PyTorch", 16, CUDNN, 100),
    Case("compile, SDPA flash, fused AdamW", "PyTorch", 32, FLASH, 100),
)
VARIANTS = (
    Case("unrolled, no remat", "ours", 16, UNROLLED, 110, "moe_1b"),
    Case("unrolled, remat qkv_mlp", "ours", 16, REMAT, 90),
    Case("unrolled, no remat", "ours", 4, UNROLLED, 110, "moe_1b", 8192),
    Case("unrolled, no remat", "ours", 32, UNROLLED, 90),
    Case("scanned, remat qkv_mlp", "ours", 16, {"scan_layers": True, "remat": "qkv_mlp"}, 70),
)
NO_TRITON = replace(
    OURS, variant="unrolled, no remat, Triton GEMM off", seconds=110, xla={"xla_gpu_enable_triton_gemm": False}
)
FLAGS = (
    replace(OURS, seconds=110),
    NO_TRITON,
    replace(NO_TRITON, seconds=COMPILED_ALREADY),
    replace(OURS, seconds=COMPILED_ALREADY),
)
GROUPS = ("losses", "main", "transformers", "kernels", "variants", "flags")
CHECK = Part("check", "a look at the GPU", "gpu_jax.py", "check", {}, 60, "jax")  # before all others


def parts(folder: Path, *, toy: bool) -> list[Part]:
    """All parts in order. `folder` holds the files that one process leaves for the next."""
    losses = LOSSES | {"model": MODELS[LOSSES["model"]], "weights": str(folder / "weights.npz")}
    if toy:
        losses |= {"model": MODELS[LOSSES["model"]] | TOY | {"num_layers": 2}}
        losses |= {"micro_batch": 4, "seq_len": TOY["context_length"]}
    operations = _operations(toy=toy)
    return [
        Part("losses", "20 losses, ours", "gpu_jax.py", "losses", losses, 70, "jax"),
        Part("losses", "20 losses, PyTorch", "gpu_torch.py", "losses", losses, 50, "torch"),
        *(case_part("main", case, toy=toy) for case in (MAIN[:2] if toy else MAIN)),
        *(case_part("transformers", case, toy=toy) for case in TRANSFORMERS),
        Part("kernels", "copy, products, attention in PyTorch", "gpu_torch.py", "kernels", operations, 60, "torch"),
        Part("kernels", "copy, products, attention in JAX", "gpu_jax.py", "kernels", operations, 120, "jax"),
        *(case_part("variants", case, toy=toy) for case in (() if toy else VARIANTS)),
        *(case_part("flags", case, toy=toy) for case in (FLAGS[1:2] if toy else FLAGS)),
    ]


def case_part(group: str, case: Case, *, toy: bool, trace: Path | None = None) -> Part:
    """The part that times `case`; with `trace`, only for ours, the part that writes a profile of three steps there."""
    model = MODELS[case.model]
    if toy:
        model = model | TOY
        case = replace(case, model="toy", micro_batch=4, seq_len=TOY["context_length"])
        if case.options.get("compile_backend"):  # a toy run needs no C++ compiler
            case = replace(case, options=case.options | {"compile_backend": "eager"})
    name = {"model_name": case.model, "library": case.library, "variant": case.variant}
    title = f"{case.model}, {case.library}, {case.variant}, micro-batch {case.micro_batch}"
    arguments: dict[str, Any] = {
        "name": name,
        "model": model,
        "micro_batch": case.micro_batch,
        "seq_len": case.seq_len,
        "turns": 3 if toy else 6,
        "steps": 1 if toy else 4,
    }
    if case.library == "ours":
        arguments |= {"model": model | case.options, "xla": case.xla, "trace": trace and str(trace)}
        return Part(group, title, "gpu_jax.py", "train", arguments, case.seconds, "jax")
    needs = "transformers" if case.library == "Transformers" else "torch"
    return Part(group, title, "gpu_torch.py", "train", arguments | case.options, case.seconds, needs)


def _operations(*, toy: bool) -> dict[str, Any]:
    """A large square product, the products of the main model at its micro-batch size, and attention."""
    model = ModelConfig(**(MODELS[OURS.model] | (TOY if toy else {})))
    square, copy_bytes = (128, 2**20) if toy else (8192, 2**32)
    batch, seq_len = (2, TOY["context_length"]) if toy else (OURS.micro_batch, OURS.seq_len)
    tokens, chunk = batch * seq_len, min(batch * seq_len, 4096)
    width, inner, rows = model.d_model, model.d_ff, model.padded_vocab_size
    products = [
        _product(f"product {square} x {square} x {square}", "mk,kn->mn", square, square, square),
        _product("qkv", "mk,kn->mn", tokens, width, 3 * width),
        _product("attention out", "mk,kn->mn", tokens, width, width),
        _product("MLP up", "mk,kn->mn", tokens, width, inner),
        _product("MLP down", "mk,kn->mn", tokens, inner, width),
        _product("MLP up, gradient of the kernel", "km,kn->mn", width, tokens, inner),
        _product("head, one chunk", "mk,nk->mn", chunk, width, rows),
    ]
    heads = ((4, 4), (4, 2)) if toy else ((24, 24), (14, 2))
    return {
        "copy_bytes": copy_bytes,
        "products": products,
        "attentions": [_attention(batch, seq_len, num_heads, num_kv_heads) for num_heads, num_kv_heads in heads],
    }


def _product(name: str, equation: str, m: int, k: int, n: int) -> dict[str, Any]:
    sizes = {"m": m, "k": k, "n": n}
    left, right = equation.split("->")[0].split(",")
    shapes = {"left": [sizes[letter] for letter in left], "right": [sizes[letter] for letter in right]}
    return {"name": f"{name}, {equation}", "equation": equation, "flops": 2 * m * k * n, **shapes}


def _attention(batch: int, seq_len: int, num_heads: int, num_kv_heads: int, head_dim: int = 64) -> dict[str, Any]:
    return {
        "name": f"attention B{batch} T{seq_len} heads {num_heads}/{num_kv_heads} x {head_dim}",
        "batch": batch,
        "seq_len": seq_len,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "flops": 2 * batch * num_heads * seq_len**2 * head_dim,  # two products, the causal half of each
    }
