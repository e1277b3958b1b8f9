"""Improves a chat model by practice (GRPO): it answers prompts, a rule rewards the answers, better ones become more likely."""

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_write

EXAMPLES = """examples:
  tonsai grpo --init-from runs/chat --prompts sums.jsonl --reward equals --workdir runs/practice
  tonsai grpo --init-from hf:ORG/NAME --prompts questions.jsonl --reward my_rewards:score --rounds 200 --workdir runs/practice

A line of the prompts is {"prompt": "...", "answer": "..."}; prompt can be a list of messages. "contains" and "equals" compare the
model's text with the answer. Another rule is a Python function of a module in this folder, my_rewards.py:

  def score(text, record):          # the model's answer, and the line of the file
      return float(text.endswith("."))

The same command again continues. Made for small models on one device: answers are generated as `tonsai generate` does it.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--init-from", required=True, metavar="MODEL", help="workdir of a run, folder of a model, or hf:ORG/NAME")
    add("--prompts", required=True, metavar="FILE", help="JSONL, or another file of records")
    add("--reward", required=True, metavar="RULE", help="contains, equals, or MODULE:FUNCTION")
    add("--workdir", required=True, type=folder_to_write, metavar="DIR", help="folder of the run")
    add("--rounds", type=int, default=100, metavar="N", help="rounds of answers and training (default: 100)")
    add("--prompts-per-round", type=int, default=8, metavar="N", help="prompts in a round (default: 8)")
    add("--group-size", type=int, default=8, metavar="N", help="answers to each prompt (default: 8)")
    add("--updates", type=int, default=1, metavar="N", help="training steps on the answers of a round (default: 1)")
    add("--max-new-tokens", type=int, default=64, metavar="N", help="most tokens of an answer (default: 64)")
    add("--learning-rate", type=float, default=1e-5, metavar="X", help="after the warm-up (default: 1e-5)")
    add("--beta", type=float, default=0.04, metavar="X", help="pull towards the first model (default: 0.04)")
    add("--clip", type=float, default=0.2, metavar="X", help="limit of a change within a round (default: 0.2)")
    add("--micro-batch-size", type=int, default=0, metavar="N", help="answers trained on at once (default: 0, all)")
    add("--checkpoint-every", type=int, default=50, metavar="N", help="rounds between checkpoints (default: 50)")
    add("--seed", type=int, default=0, help="of prompts and answers (default: 0)")
    args = parser.parse_args()
    for name in ("rounds", "checkpoint_every"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(args, name)} must be at least 1")
    if args.micro_batch_size < 0:
        raise UserError(f"--micro-batch-size={args.micro_batch_size} must be at least 0")

    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    from tonsai_jax.reinforce.grpo import Settings, grpo
    from tonsai_jax.reinforce.rewards import reward_of
    from tonsai_jax.runtime.lock import workdir_lock
    from tonsai_jax.runtime.output import lasting_output
    from tonsai_jax.runtime.signals import StopRequest

    settings = Settings(
        init_from=args.init_from,
        reward=args.reward,
        prompts_per_round=args.prompts_per_round,
        group_size=args.group_size,
        updates=args.updates,
        max_new_tokens=args.max_new_tokens,
        learning_rate=args.learning_rate,
        clip=args.clip,
        beta=args.beta,
        seed=args.seed,
    )
    reward = reward_of(args.reward)

    def say(line: str) -> None:
        print(line, flush=True)

    with lasting_output(), StopRequest(say) as stop_request, workdir_lock(args.workdir, say):
        grpo(
            settings,
            args.prompts,
            args.workdir,
            reward,
            rounds=args.rounds,
            checkpoint_every=args.checkpoint_every,
            micro_batch_size=args.micro_batch_size,
            say=say,
            stop_request=stop_request,
        )
