"""What a model is made of: the shape of a decoder, its few switches, and its counts."""

import dataclasses
import math

from tonsai_jax.errors import UserError, did_you_mean

VOCAB_MULTIPLE = 128  # embedding rows are padded to it: even tiles for the matrix units, even shards for FSDP
REMAT_POLICIES = ("none", "qkv_mlp", "offload", "full")
ATTENTION_BACKENDS = ("auto", "xla", "cudnn")
CHOICES = {
    "norm": ("layernorm", "rmsnorm"),
    "position": ("learned", "rope"),
    "rope_scaling": ("none", "linear", "yarn", "llama3"),
    "mlp": ("gelu", "swiglu"),
    "dtype": ("float32", "bfloat16"),
    "attention": ATTENTION_BACKENDS,
    "remat": REMAT_POLICIES,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder; names as in the field, sizes in elements. The switches' defaults make a GPT-2 (`presets.py`).

    Raises `UserError` at construction where the values cannot make a model.
    """

    vocab_size: int
    context_length: int  # the longest sequence the model can see
    num_layers: int
    num_heads: int
    d_model: int
    d_ff: int  # inner width of the feed-forward layer, or of each expert

    # What kind of decoder.
    norm: str = "layernorm"
    norm_epsilon: float = 1e-5
    position: str = "learned"
    rope_theta: float = 10_000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0  # how much longer than rope_original_context the context is
    rope_original_context: int = 0  # 0: context_length / rope_factor
    mlp: str = "gelu"
    num_kv_heads: int = 0  # keys and values are shared by groups of heads; 0: every head has its own
    head_size: int = 0  # 0: d_model / num_heads
    qk_norm: bool = False  # RMSNorm over each head's queries and keys
    bias: bool = True  # in the linear layers
    tie_embeddings: bool = True  # the output's table is the input's

    # Mixture of experts.
    num_experts: int = 0  # 0: one dense feed-forward layer
    experts_per_token: int = 2
    router_temperature: float = 1.0  # divides the router's logits
    capacity_factor: float = (
        1.25  # places of an expert in training, as a multiple of its even share; 0: for every token
    )

    # How it is computed.
    dropout: float = 0.0  # on embeddings and on both residual branches
    attention_dropout: float = 0.0  # on attention probabilities
    dtype: str = "float32"  # of activations and matrix products; parameters are always float32
    attention: str = "auto"
    document_mask: bool = False
    scan_layers: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        for field in ("vocab_size", "context_length", "num_layers", "num_heads", "d_model", "d_ff"):
            self._require(getattr(self, field) >= 1, field, "must be at least 1")
        for field, choices in CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                raise UserError(f"model.{field}={value!r} is not known{did_you_mean(value, choices)}")
        for field in ("num_kv_heads", "head_size", "rope_original_context", "num_experts", "capacity_factor"):
            self._require(getattr(self, field) >= 0, field, "must be at least 0")
        for field in ("norm_epsilon", "router_temperature"):
            self._require(getattr(self, field) > 0, field, "must be above 0")
        for field in ("dropout", "attention_dropout"):
            self._require(0.0 <= getattr(self, field) < 1.0, field, "must lie in [0, 1)")
        self._require(
            bool(self.head_size) or self.d_model % self.num_heads == 0,
            "d_model",
            f"is not divisible by model.num_heads={self.num_heads}; choose a width that is a multiple of the heads",
        )
        self._require(
            self.num_heads % self.kv_heads == 0,
            "num_kv_heads",
            f"does not divide model.num_heads={self.num_heads}; choose a divisor, or 0 for as many",
        )
        if self.position == "rope":
            self._require(self.head_dim % 2 == 0, "position", f"needs an even head size, not {self.head_dim}")
            self._require(1 < self.rope_theta < math.inf, "rope_theta", "must be a number above 1")
        if self.rope_scaling == "none":
            unscaled = "stretches nothing while model.rope_scaling=none; set linear, yarn or llama3, or leave it at"
            self._require(self.rope_factor == 1, "rope_factor", f"{unscaled} 1")
            self._require(self.rope_original_context == 0, "rope_original_context", f"{unscaled} 0")
        else:
            self._require(self.position == "rope", "rope_scaling", "is for model.position=rope")
            self._require(1 <= self.rope_factor < math.inf, "rope_factor", "must be a number of at least 1")
            self._require(
                self.original_context >= 1,
                "rope_factor",
                f"stretches no context to model.context_length={self.context_length}; choose one below that length",
            )
        if self.num_experts:
            self._require(self.mlp == "swiglu", "mlp", "is not for experts; set model.mlp=swiglu")
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
        return self.head_size or self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.num_kv_heads or self.num_heads

    @property
    def original_context(self) -> int:
        """The context length from which RoPE is stretched by `rope_factor`."""
        return self.rope_original_context or round(self.context_length / self.rope_factor)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to a multiple of 128."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def num_parameters(self) -> int:
        """Trainable parameters as exported: padding rows are not counted, a tied embedding once."""
        d, dh, q = self.d_model, self.head_dim, self.num_heads * self.head_dim
        norm = d if self.norm == "rmsnorm" else 2 * d
        layer = self._layer_weights(self.num_experts or 1) + 2 * norm + (2 * dh if self.qk_norm else 0)
        if self.bias:
            layer += q + 2 * self.kv_heads * dh + d  # attention
            if not self.num_experts:
                layer += self._up_width + d
        tables = self.vocab_size * (1 if self.tie_embeddings else 2)
        positions = self.context_length if self.position == "learned" else 0
        return (tables + positions) * d + self.num_layers * layer + norm

    @property
    def num_active_parameters(self) -> int:
        """Those of `num_parameters` that one token meets: of the experts only its own."""
        if not self.num_experts:
            return self.num_parameters
        asleep = self.num_experts - self.experts_per_token
        return self.num_parameters - self.num_layers * asleep * self._expert_weights

    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of one training step per token, forward and backward, counting causal attention once.

        6 per weight of a matrix product that the token meets (the head included, embeddings and biases not), plus
        6 * seq_len * heads * head size per layer for the two attention products over the causal half
        (the count of PaLM, arXiv:2204.02311, appendix B, halved for causality). Recomputation is not counted.
        """
        layer = self._layer_weights(self.experts_per_token if self.num_experts else 1)
        weights = self.num_layers * layer + self.padded_vocab_size * self.d_model
        return 6.0 * weights + 6.0 * self.num_layers * seq_len * self.num_heads * self.head_dim

    @property
    def _up_width(self) -> int:
        """Columns of the first feed-forward matrix: SwiGLU's gate stands beside its values."""
        return self.d_ff * (2 if self.mlp == "swiglu" else 1)

    @property
    def _expert_weights(self) -> int:
        return self.d_model * (self._up_width + self.d_ff)

    def _layer_weights(self, experts: int) -> int:
        """Weights of a layer's matrix products, with so many experts."""
        d = self.d_model
        attention = d * (2 * self.num_heads + 2 * self.kv_heads) * self.head_dim
        return attention + experts * self._expert_weights + d * self.num_experts
