"""Chat with a trained model, in the terminal or on a local web page. Each line of standard input is a message."""

from pathlib import Path
from typing import TYPE_CHECKING

from tonsai_jax.commands.parser import CommandParser, sampling_of
from tonsai_jax.errors import UserError
from tonsai_jax.runtime.libraries import quiet_libraries

if TYPE_CHECKING:
    from tonsai_jax.checkpoints.store import CheckpointStep
    from tonsai_jax.inference.chat import Chat

EXAMPLES = """examples:
  tonsai chat --workdir runs/sft
  tonsai chat --model export/sft --temperature 0.3
  tonsai chat --model hf:Qwen/Qwen3-0.6B --web
  tonsai chat --workdir runs/sft --web --compare runs/dpo
  echo "តើអ្នកជានរណា?" | tonsai chat --workdir runs/sft
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", metavar="DIR", help="folder of the run, the --workdir of tonsai train")
    model.add_argument(
        "--model", metavar="MODEL", help="model in Hugging Face format: a folder, or hf:ORG/NAME to download it"
    )
    parser.add_step("with --workdir: checkpoint to use")
    add(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="most tokens of an answer (default: half of the model's context, but at most 512)",
    )
    parser.add_sampling()
    add("--web", action="store_true", help="open a page for the browser instead (uv sync --inexact --extra ui)")
    add(
        "--host",
        metavar="ADDRESS",
        help="with --web: address to serve the page at (default: 127.0.0.1, which only this machine reaches)",
    )
    add("--port", type=int, metavar="N", help="with --web: port to serve the page at (default: 7860)")
    add("--compare", metavar="MODEL", help="with --web: a second model next to it: a run's folder, or as for --model")
    add("--compare-step", type=int, metavar="N", help="with --compare RUN: checkpoint to use (default: the newest)")
    args = parser.parse_args()
    sampling = sampling_of(args)
    if args.compare and not args.web:
        raise UserError("--compare shows two models side by side on the page: add --web")
    for flag, value in (("--host", args.host), ("--port", args.port)):
        if value is not None and not args.web:
            raise UserError(f"{flag} is that of the page for the browser: add --web, or leave it out")
    if args.compare_step is not None and not args.compare:
        raise UserError("--compare-step has no effect without --compare; add that, or leave it out")

    quiet_libraries()
    host, port = "127.0.0.1" if args.host is None else args.host, 7860 if args.port is None else args.port
    if args.web:
        from tonsai_jax.chat_ui.web import check, serve

        check(host, port)  # now, and not after the models are loaded
    flag = "--workdir" if args.workdir else "--model"
    chats = [_open(flag, args.workdir or args.model, args.step)]
    if args.compare:
        chats.append(_open("--compare", args.compare, args.compare_step))
    max_new_tokens = args.max_new_tokens
    if max_new_tokens is None:
        max_new_tokens = min(chat.max_new_tokens for _, chat in chats)
    for _, chat in chats:
        chat.check_limit(max_new_tokens)
    if args.web:
        serve(
            chats,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=args.seed,
            host=host,
            port=port,
        )
    else:
        from tonsai_jax.chat_ui.terminal import Terminal

        [(name, chat)] = chats
        Terminal(chat, max_new_tokens=max_new_tokens, sampling=sampling, seed=args.seed).run(name)


def _open(flag: str, where: str, step: "CheckpointStep | None") -> "tuple[str, Chat]":
    """A model with the name to show for it."""
    from tonsai_jax.chat.template import ChatTemplate
    from tonsai_jax.huggingface.pretrained import open_pretrained
    from tonsai_jax.inference.chat import Chat
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.inference.load import load_run

    if flag == "--workdir" or (Path(where) / "checkpoints").is_dir():
        run = load_run(where, step)
        return f"{where}, step {run.step:,}", Chat(Generator(run.model_config, run.params, run.tokenizer))
    if step is not None:
        raise UserError(f"{flag} {where}: is not the folder of a run, so it has no step {step}; leave the step out")
    pretrained = open_pretrained(where, flag)
    tokenizer = pretrained.tokenizer()
    ChatTemplate.of(tokenizer)  # an error now, and not after the weights are read
    return where, Chat(Generator(pretrained.model_config, pretrained.params(), tokenizer))
