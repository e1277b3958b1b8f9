"""The keys of a model and of its adapters, and the numbers that follow from them: sizes, parameters, FLOPs.

`ModelConfig` is the only place that declares them. A field's default, meaning, allowed values and effect on checkpoints stand
in its `key(...)`. `config.model`, the checks at construction and those of a resumed run read them from there, so a new key
needs one new field.
"""

import dataclasses
import math
import shlex
from collections.abc import Mapping
from typing import Any, TypeVar

from tonsai_jax.errors import UserError, did_you_mean, unknown_name

VOCAB_MULTIPLE = 128  # embedding rows are padded to it: even tiles for the matrix units, even shards for FSDP
T = TypeVar("T")


def key(
    default: T,
    meaning: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    changes_arrays: bool = False,
    chosen_by_run: bool = False,
    effective: str = "",
) -> T:
    """A field of `ModelConfig`.

    Args:
      default: the value where a config does not set the key; its type is the type of the key.
      meaning: one line: what the key is, its unit, and what 0 stands for.
      choices: the allowed names; empty for a number or a switch.
      at_least: the smallest allowed number.
      changes_arrays: whether another value gives the arrays of a checkpoint another shape or meaning. A run cannot resume with
        another value then.
      chosen_by_run: whether it says how the model is computed, and not what it is; a run that continues from another model
        chooses only these keys.
      effective: the property with the value in effect, where that is not always the value of the key itself.
    """
    rules = {"choices": choices, "at_least": at_least, "changes_arrays": changes_arrays, "effective": effective}
    metadata = {"meaning": meaning, "chosen_by_run": chosen_by_run, **rules}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder. The defaults are those of a GPT-2 small without its vocabulary; `presets.py` has the other families.

    Raises `UserError` at construction for values that cannot make a model.
    """

    vocab_size: int = key(
        0, "token ids of the model; in a config 0 takes those of the tokenizer", at_least=1, changes_arrays=True
    )
    context_length: int = key(
        1024, "longest sequence in tokens; at least the longest seq_len",
        at_least=1, changes_arrays=True, effective="num_positions",
    )  # fmt: skip
    num_layers: int = key(12, "layers, each with attention and a feed-forward network", at_least=1, changes_arrays=True)
    num_heads: int = key(12, "attention heads of the queries", at_least=1, changes_arrays=True)
    d_model: int = key(768, "width of the residual stream", at_least=1, changes_arrays=True)
    d_ff: int = key(3072, "inner width of the feed-forward network, or of each expert", at_least=1, changes_arrays=True)

    # Which family of decoder; config.model.update(preset("llama")) sets these together.
    norm: str = key(
        "layernorm",
        "normalization; zero_centered_rmsnorm is an RMSNorm with weights 1 + w, and w starts at 0",
        choices=("layernorm", "rmsnorm", "zero_centered_rmsnorm"),
        changes_arrays=True,
    )
    norm_epsilon: float = key(1e-5, "added to the variance in a norm")
    sandwich_norms: bool = key(
        False, "a norm after attention and after the feed-forward network as well", changes_arrays=True
    )
    scale_embedding: bool = key(False, "multiplies token embeddings by sqrt(d_model)")
    position: str = key("learned", "how positions enter the model", choices=("learned", "rope"), changes_arrays=True)
    rope_theta: float = key(10_000.0, "base of the wavelengths of RoPE")
    rope_scaling: str = key(
        "none", "how RoPE is stretched to a longer context", choices=("none", "linear", "yarn", "llama3")
    )
    rope_factor: float = key(1.0, "how many times longer the context becomes through rope_scaling")
    rope_original_context: int = key(
        0, "context length before rope_scaling; 0 is context_length / rope_factor", at_least=0
    )
    mlp: str = key(
        "gelu",
        "feed-forward network: gelu and relu2 have two matrices, swiglu and geglu three",
        choices=("gelu", "relu2", "swiglu", "geglu"),
        changes_arrays=True,
    )
    num_kv_heads: int = key(
        0, "heads of keys and values, each shared by a group of query heads; 0 is num_heads",
        at_least=0, changes_arrays=True, effective="kv_heads",
    )  # fmt: skip
    head_size: int = key(
        0, "width of an attention head; 0 is d_model / num_heads", at_least=0, changes_arrays=True, effective="head_dim"
    )
    query_scalar: int = key(0, "attention scores are divided by its square root; 0 is the head size", at_least=0)
    sliding_window: int = key(
        0, "tokens that a token of a sliding layer attends to, itself included; 0 has no sliding layers", at_least=0
    )
    global_every: int = key(
        6, "with a sliding_window, every N-th layer attends to the whole context instead", at_least=2
    )
    local_rope_theta: float = key(10_000.0, "base of RoPE in sliding layers, which rope_scaling leaves as they are")
    qk_norm: bool = key(False, "norm over the queries and keys of each head", changes_arrays=True)
    bias: bool = key(True, "biases in the linear layers", changes_arrays=True)
    tie_embeddings: bool = key(True, "one table for the input embedding and the output", changes_arrays=True)

    # Mixture of experts.
    num_experts: int = key(0, "experts in each layer; 0 is a dense model", at_least=0, changes_arrays=True)
    experts_per_token: int = key(2, "experts that each token is routed to")
    router_temperature: float = key(1.0, "divides the logits of the router")
    capacity_factor: float = key(
        1.25, "slots of an expert in training, as a multiple of its even share; 0 drops nothing, slowly except on a Hopper",
        at_least=0, chosen_by_run=True,
    )  # fmt: skip

    # How it is computed.
    dropout: float = key(0.0, "share of the embeddings and residual branches that is dropped", chosen_by_run=True)
    attention_dropout: float = key(0.0, "share of the attention probabilities that is dropped", chosen_by_run=True)
    dtype: str = key(
        "bfloat16",
        "activations and matrix products; parameters and moments are float32; float16 is for GPUs without bfloat16",
        choices=("float32", "bfloat16", "float16"),
        chosen_by_run=True,
    )
    attention: str = key(
        "auto",
        "attention backend; auto is cudnn where it can run, and packs documents there; the run prints which",
        choices=("auto", "xla", "cudnn"),
        chosen_by_run=True,
    )
    document_mask: bool = key(False, "a token attends only to tokens of its own document", chosen_by_run=True)
    scan_layers: bool = key(
        True, "compile one layer and loop over it; False unrolls: compiles slower, runs faster", chosen_by_run=True
    )
    remat: str = key(
        "auto",
        "what the backward pass keeps of a layer: all, the widest products, these on the host, nothing; auto: what fits",
        choices=("auto", "none", "qkv_mlp", "offload", "full"),
        chosen_by_run=True,
    )

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> "ModelConfig":
        """The model of a checkpoint, from the values that were saved with it.

        A key that is newer than the checkpoint has its default. Raises `UserError` for a key that no longer exists.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if gone := [name for name in saved if name not in names]:
            raise UserError(
                f"the checkpoint was saved with model.{gone[0]}={saved[gone[0]]!r}, a key that this version does not have; "
                f"use the version of tonsai_jax that wrote it"
            )
        return cls(**saved)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, choices, least = getattr(self, each.name), each.metadata["choices"], each.metadata["at_least"]
            if choices and value not in choices:
                raise unknown_name(f"model.{each.name}", value, choices)
            self._require(least is None or value >= least, each.name, f"must be at least {least}")
        for field in ("norm_epsilon", "router_temperature"):
            self._require(getattr(self, field) > 0, field, "must be above 0")
        for field in ("dropout", "attention_dropout"):
            self._require(0.0 <= getattr(self, field) < 1.0, field, "must lie in [0, 1)")
        self._require(
            bool(self.head_size) or self.d_model % self.num_heads == 0,
            "d_model",
            f"is not divisible by model.num_heads={self.num_heads}; choose a multiple of num_heads, or set model.head_size",
        )
        self._require(
            self.num_heads % self.kv_heads == 0,
            "num_kv_heads",
            f"does not divide model.num_heads={self.num_heads}; choose a divisor of it, or 0 for the same number",
        )
        if self.position == "rope":
            self._require(
                self.head_dim % 2 == 0, "position", f"needs an even head size, not {self.head_dim}; set model.head_size"
            )
            for field in ("rope_theta", "local_rope_theta"):
                self._require(1 < getattr(self, field) < math.inf, field, "must be a number above 1")
        if not self.sliding_window:
            for field in ("global_every", "local_rope_theta"):
                default = self.__dataclass_fields__[field].default
                rule = f"has no effect with model.sliding_window=0; set sliding_window, or this key to {default}"
                self._require(getattr(self, field) == default, field, rule)
        if self.rope_scaling == "none":
            rule = (
                "has no effect with model.rope_scaling=none; set rope_scaling to linear, yarn or llama3, or this key to"
            )
            self._require(self.rope_factor == 1, "rope_factor", f"{rule} 1")
            self._require(self.rope_original_context == 0, "rope_original_context", f"{rule} 0")
        else:
            rule = "needs model.position=rope; set that, or model.rope_scaling=none"
            self._require(self.position == "rope", "rope_scaling", rule)
            self._require(1 <= self.rope_factor < math.inf, "rope_factor", "must be a number of at least 1")
            self._require(
                self.original_context >= 1,
                "rope_factor",
                f"is too large for model.context_length={self.context_length}: the original context would be 0 tokens; lower it",
            )
        if self.num_experts:
            self._require(self.mlp == "swiglu", "mlp", "does not work with experts; set model.mlp=swiglu")
            self._require(
                1 <= self.experts_per_token <= self.num_experts,
                "experts_per_token",
                f"must lie between 1 and model.num_experts={self.num_experts}",
            )

    def _require(self, holds: bool, field: str, rule: str) -> None:
        if not holds:
            raise UserError(f"model.{field}={getattr(self, field)!r} {rule}")

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.head_size or self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.num_kv_heads or self.num_heads

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass computes parts of a layer again. "auto" keeps all, unless a run replaces it."""
        return self.remat not in ("auto", "none")

    @property
    def attention_scale(self) -> float:
        """What attention scores are multiplied by."""
        return 1.0 / math.sqrt(self.query_scalar or self.head_dim)

    @property
    def num_sliding_layers(self) -> int:
        """Layers in which a token attends to at most `sliding_window` tokens; layer 0 is the first."""
        return self.num_layers - self.num_layers // self.global_every if self.sliding_window else 0

    @property
    def original_context(self) -> int:
        """The context length from which RoPE is stretched by `rope_factor`."""
        return self.rope_original_context or round(self.context_length / self.rope_factor)

    @property
    def num_positions(self) -> int:
        """Rows of the learned position embedding; 0 with RoPE, which has none."""
        return self.context_length if self.position == "learned" else 0

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to a multiple of 128."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def num_parameters(self) -> int:
        """Trainable parameters as exported: without the padding rows, and a tied embedding counts once."""
        d, dh, q = self.d_model, self.head_dim, self.num_heads * self.head_dim
        norm = 2 * d if self.norm == "layernorm" else d
        norms = 4 if self.sandwich_norms else 2
        layer = self._layer_weights(self.num_experts or 1) + norms * norm + (2 * dh if self.qk_norm else 0)
        if self.bias:
            layer += q + 2 * self.kv_heads * dh + d  # attention
            if not self.num_experts:
                layer += self.up_width + d
        tables = self.vocab_size * (1 if self.tie_embeddings else 2)
        return (tables + self.num_positions) * d + self.num_layers * layer + norm

    @property
    def num_active_parameters(self) -> int:
        """Parameters that work for one token: those of its own experts, and everything outside the experts."""
        if not self.num_experts:
            return self.num_parameters
        inactive_experts = self.num_experts - self.experts_per_token
        return self.num_parameters - self.num_layers * inactive_experts * self._expert_weights

    def flops_per_token(self, seq_len: int) -> float:
        """FLOPs per token of one training step, forward and backward.

        6 for each weight that multiplies the token (the output head counts, embedding lookups and biases do not), plus
        6 * seq_len * num_heads * head_dim in each layer for the two attention products over the causal half. This is the
        count of PaLM (arXiv:2204.02311, appendix B), halved for causality. In a sliding layer only the pairs of tokens within
        the window count. Recomputation is not counted.
        """
        layer = self._layer_weights(self.experts_per_token if self.num_experts else 1)
        weights = self.num_layers * layer + self.padded_vocab_size * self.d_model
        beyond = max(0, seq_len - self.sliding_window)  # in a sliding layer these are not attended to by the last token
        outside = self.num_sliding_layers * beyond**2 / max(seq_len, 1)
        return 6.0 * weights + 6.0 * (self.num_layers * seq_len - outside) * self.num_heads * self.head_dim

    @property
    def up_width(self) -> int:
        """Columns of the first feed-forward matrix; those of SwiGLU and GeGLU hold the gate and the values."""
        return self.d_ff * (2 if self.mlp in ("swiglu", "geglu") else 1)

    @property
    def _expert_weights(self) -> int:
        """Weights of the feed-forward network, or of one expert."""
        return self.d_model * (self.up_width + self.d_ff)

    def _layer_weights(self, experts: int) -> int:
        """Weights of the matrix products of a layer with this number of experts, router included."""
        d = self.d_model
        attention = d * (2 * self.num_heads + 2 * self.kv_heads) * self.head_dim
        return attention + experts * self._expert_weights + d * self.num_experts


LORA_TARGETS = ("qkv", "attention_out", "mlp_up", "mlp_down")


@dataclasses.dataclass(frozen=True)
class Lora:
    """The adapters of LoRA (`model/lora.py`); the keys of `config.lora`.

    Raises `UserError` at construction for values that cannot make adapters.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora.rank={self.rank!r} must be at least 1, or 0 to train all parameters")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"lora.alpha={self.alpha!r} must be above 0")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"lora.dropout={self.dropout!r} must lie in [0, 1)")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise UserError(f"lora.targets={self.targets!r} must name different ones of {', '.join(LORA_TARGETS)}")
        for name in self.targets:
            if name not in LORA_TARGETS:
                known = did_you_mean(name, LORA_TARGETS)
                there = "" if "known are" in known else f"; known are: {', '.join(LORA_TARGETS)}"
                raise UserError(
                    f"lora.targets: no layer is called {name!r}{known}{there}. Experts and routers get no adapters"
                )

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank

    def num_parameters(self, model: ModelConfig) -> int:
        """Parameters of the adapters of this model: those that are trained."""
        d, heads = model.d_model, model.num_heads * model.head_dim
        qkv = heads + 2 * model.kv_heads * model.head_dim
        widths = {"qkv": d + qkv, "attention_out": heads + d, "mlp_up": d + model.up_width, "mlp_down": model.d_ff + d}
        return model.num_layers * self.rank * sum(widths[name] for name in self.targets)

    def flops_per_token(self, model: ModelConfig, seq_len: int) -> float:
        """As `ModelConfig.flops_per_token`, without the gradients of the base: 4 for each of its weights, and 6 for each of the
        adapters'."""
        base_gradients = model.flops_per_token(0) / 3
        return model.flops_per_token(seq_len) - base_gradients + 6.0 * self.num_parameters(model)

    def check_model(self, model: ModelConfig) -> None:
        """Raises `UserError` for a target that the model does not have."""
        if model.num_experts and (missing := [name for name in self.targets if name.startswith("mlp")]):
            rest = tuple(name for name in self.targets if name not in missing) or LORA_TARGETS[:2]
            flag = shlex.quote(f"--config.lora.targets={rest!r}".replace("'", '"'))
            raise UserError(
                f"lora.targets={self.targets!r}: a model with experts (model.num_experts={model.num_experts}) has no "
                f"{' and '.join(missing)}, and experts and routers get no adapters; add {flag}"
            )


def choices_of(name: str) -> tuple[str, ...]:
    """The allowed values of a key of `ModelConfig` that is a name."""
    return ModelConfig.__dataclass_fields__[name].metadata["choices"]


def keys_that_change_arrays(before: ModelConfig, after: ModelConfig) -> list[str]:
    """The keys in which two models differ so that a checkpoint of one does not fit the other."""

    def differ(name: str) -> bool:
        return getattr(before, name) != getattr(after, name)

    return [
        field.name
        for field in dataclasses.fields(ModelConfig)
        if field.metadata["changes_arrays"] and differ(field.name) and differ(field.metadata["effective"] or field.name)
    ]
