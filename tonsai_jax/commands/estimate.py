"""What a run needs before it starts: memory, largest micro-batch, speed, hours, cost and collectives on a GPU of your choice."""

import os
import sys

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.files import write_json

EXAMPLE = """examples:
  tonsai estimate --config configs/gpt2_500m.py --gpu h100 --num-gpus 8 --tokens 100e9 --price 2.5
  tonsai estimate --config configs/gpt2_500m.py --gpu h200 --config.mesh.fsdp=1 --config.micro_batch_size=32
  tonsai estimate --config configs/gpt2_500m.py --gpu h100 --num-gpus 64 --config.mesh.fsdp=8   # 8 machines of 8

Any key of the config can be set as --config.section.key=value. Where JAX's CUDA plugin is installed
(uv sync --inexact --extra cuda13), the training step is also compiled for h100 and h200; that needs no GPU.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE, allow_abbrev=False)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="config file of the run, as for tonsai train")
    add(
        "--gpu",
        required=True,
        metavar="NAME",
        help="h100, a100-80gb, rtx4090 or another GPU in tonsai_jax/runtime/hardware.py",
    )
    add("--num-gpus", type=int, default=1, metavar="N", help="all GPUs of the run (default: 1)")
    add("--gpus-per-host", type=int, default=8, metavar="N", help="GPUs of one machine (default: 8)")
    add(
        "--network-gbit",
        type=float,
        default=400.0,
        metavar="X",
        help="Gb/s of one GPU to other machines, in one direction (default: 400, InfiniBand NDR)",
    )
    add("--tokens", type=float, metavar="N", help="tokens of the whole run (default: those of the steps in the config)")
    add("--price", type=float, metavar="X", help="price of one GPU for one hour, in any currency")
    add("--data", metavar="DIR", help="token rows, for the epochs of each source (default: data.dir of the config)")
    add(
        "--no-compile",
        action="store_true",
        help="compute the figures without compiling the step: takes a second, not a minute",
    )
    parser.add_json()
    args, keys = parser.parse_known_args()

    os.environ["JAX_PLATFORMS"] = "cpu"  # leaves a GPU of this machine alone
    from tonsai_jax.cli import parse_flags
    from tonsai_jax.config import set_model
    from tonsai_jax.data.manifest import read_manifest
    from tonsai_jax.huggingface.pretrained import pretrained_config
    from tonsai_jax.planning.estimate import estimate
    from tonsai_jax.planning.report import estimate_as_text
    from tonsai_jax.runtime.hardware import gpu_named
    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    gpu = gpu_named(args.gpu)
    config, _, _ = parse_flags([sys.argv[0], f"--config={args.config}", *keys], "")
    if config.init_from:
        set_model(config, pretrained_config(config.init_from))
    is_made_by_run = config.data.sample_corpus or config.data.sample_questions
    is_named = any(word.lstrip("-").partition("=")[0] == "config.data.dir" for word in keys)
    if args.data or (is_named and not is_made_by_run):  # rows may be absent only where nobody named them
        read_manifest(args.data or config.data.dir)
    if args.data:
        config.data.dir, config.data.sample_corpus, config.data.sample_questions = args.data, False, False
    figures = estimate(
        config,
        gpu,
        args.num_gpus,
        gpus_per_host=args.gpus_per_host,
        network_gbit=args.network_gbit,
        tokens=args.tokens,
        price=args.price,
        compiles=not args.no_compile,
    )
    print(estimate_as_text(figures))
    if args.json:
        write_json(args.json, figures)
