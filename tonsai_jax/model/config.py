"""What a model is made of: the shape of a decoder, its counts, and where it maps to in Hugging Face."""

import dataclasses

from tonsai_jax.errors import UserError, did_you_mean

VOCAB_MULTIPLE = 128  # embedding rows are padded to it: even tiles for the matrix units, even shards for FSDP
REMAT_POLICIES = ("none", "dots", "qkv_mlp", "full")
ATTENTION_KERNELS = ("auto", "xla", "cudnn")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT-2 decoder; names as in the field, sizes in elements.

    Raises `UserError` at construction where the values cannot make a model.
    """

    vocab_size: int
    context_length: int  # positions that have an embedding; the longest sequence the model can see
    num_layers: int
    num_heads: int
    d_model: int
    d_ff: int
    dropout: float = 0.0  # on embeddings and on both residual branches
    attention_dropout: float = 0.0  # on attention probabilities
    dtype: str = "float32"  # of activations and matrix products; parameters are always float32
    attention: str = "auto"
    document_mask: bool = False
    scan_layers: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        for field in ("vocab_size", "context_length", "num_layers", "num_heads", "d_model", "d_ff"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field}={getattr(self, field)} must be at least 1")
        if self.d_model % self.num_heads:
            raise UserError(
                f"model.d_model={self.d_model} is not divisible by model.num_heads={self.num_heads}; "
                f"choose a width that is a multiple of the heads"
            )
        for field in ("dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise UserError(f"model.{field}={getattr(self, field)} must lie in [0, 1)")
        _one_of("dtype", self.dtype, ("float32", "bfloat16"))
        _one_of("attention", self.attention, ATTENTION_KERNELS)
        _one_of("remat", self.remat, REMAT_POLICIES)

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to a multiple of 128."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def num_parameters(self) -> int:
        """Trainable parameters as exported: padding rows are not counted, the tied embedding once."""
        d, f = self.d_model, self.d_ff
        attention = 3 * d * d + 3 * d + d * d + d
        mlp = 2 * d * f + f + d
        norms = 4 * d
        return (self.vocab_size + self.context_length) * d + self.num_layers * (attention + mlp + norms) + 2 * d

    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of one training step per token, forward and backward, counting causal attention once.

        6 per weight of a matrix product (the tied head included, embeddings and biases not), plus
        6 * seq_len * d_model per layer for the two attention products over the causal half
        (the count of PaLM, arXiv:2204.02311, appendix B, halved for causality). Recomputation is not counted.
        """
        d, f = self.d_model, self.d_ff
        weights = self.num_layers * (4 * d * d + 2 * d * f) + self.padded_vocab_size * d
        return 6.0 * weights + 6.0 * self.num_layers * seq_len * d


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"model.{field}={value!r} is not known{did_you_mean(value, allowed)}")
