"""What follows the last step: continue the prompts, export, write down that the run is complete, say what to do next."""

import shlex
from pathlib import Path

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.bits_per_byte import Evaluation
from tonsai_jax.files import read_json, write_json
from tonsai_jax.huggingface.card import details_of_run
from tonsai_jax.huggingface.export import export
from tonsai_jax.inference.generate import generate_texts
from tonsai_jax.training.run import load_run

FILE = "complete.json"


def complete_run(workdir: Path, evaluation: Evaluation | None) -> None:
    """Writes `workdir/complete.json`, and `workdir/export` where the config asks for it; then tells of them.

    Args:
      evaluation: of the last step, if there was one.
    """
    run = load_run(workdir)
    sampling = run.config.sample
    prompts = list(sampling.prompts)
    try:
        continuations = generate_texts(
            run.model_config,
            run.params,
            run.tokenizer,
            prompts,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=run.config.seed,
        )
    except UserError as error:  # a prompt longer than the context: no reason to keep back the export
        print(f"no continuations: {error}")
        prompts, continuations = [], []
    if run.config.export:
        details = details_of_run(run.workdir, run.config, run.step)
        export(run.model_config, run.params, run.tokenizer, workdir / "export", details=details)
    record = {
        "step": run.step,
        "scores": evaluation.scalars() if evaluation else {},
        "samples": [
            {"prompt": prompt, "continuation": text} for prompt, text in zip(prompts, continuations, strict=True)
        ],
        "exported": run.config.export,
    }
    write_json(workdir / FILE, record)
    describe_complete_run(workdir, run.step)


def describe_complete_run(workdir: Path, step: int) -> bool:
    """Prints how the complete run at `step` came out and what to do next; False where it is not written down as complete."""
    if not (workdir / FILE).is_file():
        return False
    record = read_json(workdir / FILE)
    if record["step"] != step:
        return False
    print(f"\nThe run in {workdir} is complete: {step} steps.")
    for name, value in record["scores"].items():
        if name.startswith("eval/bits_per_byte/") and "/source/" not in name:
            print(f"  {name.removeprefix('eval/bits_per_byte/')}: {value:.4f} bits per byte on held-out text")
    for sample in record["samples"]:
        print(f"  {sample['prompt']} → {sample['continuation']}")
    print("What next:")
    prompt = record["samples"][0]["prompt"] if record["samples"] else "Once upon a time"
    print(f"  python scripts/generate.py --workdir {workdir} --prompt {shlex.quote(prompt)}")
    print(f"  python scripts/evaluate.py --workdir {workdir}")
    if record["exported"]:
        print(f'  AutoModelForCausalLM.from_pretrained("{workdir / "export"}") with transformers')
    else:
        print(f"  python scripts/export_hf.py --workdir {workdir} --output-dir export/{workdir.name}")
    print("  your own text: README.md, «Your own text»; longer: raise --config.steps and run the same command again")
    return True
