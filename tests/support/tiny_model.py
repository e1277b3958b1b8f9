"""A small model with every parameter random, and a small tokenizer: shared by the tests of model, generation and export."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import END_OF_TEXT
from tonsai_jax.tokenizer.training import train_tokenizer
from tonsai_jax.training.state import init_params

KHMER = "ប្រទេសកម្ពុជាជាប្រទេសមួយនៅអាស៊ីអាគ្នេយ៍។ កុមារទៅសាលារៀនរាល់ថ្ងៃ។"
ENGLISH = "The children walk to school every day, and the teacher reads them a story."
CONFIG = ModelConfig(
    vocab_size=300,
    context_length=64,
    num_layers=2,
    num_heads=2,
    d_model=32,
    d_ff=48,
    dtype="float32",
    attention="xla",
)


def config_with(**changes) -> ModelConfig:
    return replace(CONFIG, **changes)


def random_params(config: ModelConfig, seed: int = 0, lora: Lora | None = None):
    """Every parameter random, so that no zero bias and no unit scale hides a mistake."""
    rng = np.random.default_rng(seed)

    def noise(path, leaf):
        mean = 1.0 if path[-1] == jax.tree_util.DictKey("scale") else 0.0
        return jnp.asarray(mean + 0.1 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(noise, jax.eval_shape(lambda: init_params(config, 0, lora)))


def tiny_tokenizer(folder) -> Tokenizer:
    """288 ids, so few merges that many Khmer characters take several tokens."""
    examples = [Example(KHMER, "km"), Example(ENGLISH, "en")] * 5
    train_tokenizer(examples, vocab_size=288, special_tokens=[END_OF_TEXT], output_dir=folder)
    return Tokenizer.from_folder(folder)
