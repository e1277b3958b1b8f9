"""A plain PyTorch GPT-2 and its training step, written as most people would write it: the reference of the benchmarks."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

VARIANTS = ("eager", "compile", "compile + fused AdamW")


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_up = nn.Linear(width, 4 * width)
        self.mlp_down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).split(width, dim=2)
        q, k, v = (part.view(batch, length, self.num_heads, -1).transpose(1, 2) for part in (q, k, v))
        attention = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(attention.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp_down(F.gelu(self.mlp_up(self.mlp_norm(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, vocab_size: int, context: int, num_layers: int, num_heads: int, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(inputs) + self.position_embedding.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.token_embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def adamw(model: nn.Module, rate: float, *, fused: bool) -> torch.optim.Optimizer:
    """AdamW as in our step: matrices have weight decay, biases and norms do not."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=fused)


def load_ours(model: nn.Module, params: Mapping[str, np.ndarray]) -> None:
    """Loads our parameters, with names such as "blocks.qkv.kernel"; raises unless both sides have the same parameters."""
    theirs = {}
    for path, array in params.items():
        module, _, leaf = path.rpartition(".")
        name = f"{module or leaf}.{'bias' if leaf == 'bias' else 'weight'}"
        if not path.startswith("blocks."):
            theirs[name] = array
            continue
        for layer, slice_of_layer in enumerate(array):  # PyTorch stores a linear layer as [out, in]
            theirs[name.replace("blocks.", f"blocks.{layer}.")] = (
                slice_of_layer.T if leaf == "kernel" else slice_of_layer
            )
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in theirs.items()})


def make_step(variant: str, shape: dict[str, int]) -> Callable[[np.ndarray], float]:
    """A function that trains one step on tokens [B, T + 1] and returns the loss."""
    torch.manual_seed(0)
    model = GPT2(shape["vocab_size"], shape["seq_len"], shape["num_layers"], shape["num_heads"], shape["d_model"])
    optimizer = adamw(model, rate=3e-4, fused="fused" in variant)
    forward = torch.compile(model) if "compile" in variant else model

    def step(tokens: np.ndarray) -> float:
        ids = torch.from_numpy(tokens.astype(np.int64))
        loss = forward(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step
