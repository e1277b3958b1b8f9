"""What a run does at its end where its parameters are not on one host."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from tonsai_jax.config import default_config
from tonsai_jax.evaluation.bits_per_byte import Evaluation, Score
from tonsai_jax.hooks import Hooks, _chat_flags, complete_run


@pytest.mark.parametrize("export", [True, False])
def test_a_run_on_several_hosts_says_that_it_does_not_export_and_what_does(
    export: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = default_config()
    config.export = export
    lines: list[str] = []
    complete_run(tmp_path, config, None, lines.append)
    assert ("in spite of config.export" in lines[0]) == export
    assert f"tonsai export --workdir {tmp_path} --output-dir {tmp_path / 'export'}" in lines[1]
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_without_the_metric_asked_for_has_no_score_and_a_line_says_what_there_is() -> None:
    lines: list[str] = []
    unused: dict[str, Any] = {field.name: None for field in dataclasses.fields(Hooks)} | {"say": lines.append}
    hooks = Hooks(**unused | {"best_metric": "eval/bits_per_byte/chat"})
    text = Evaluation({"wiki": Score(1.0, 2, 3)}, {"km": Score(1.0, 2, 3)})
    assert hooks.score(500, text) is None
    assert lines == [
        "step 500: its checkpoint has no score, eval/bits_per_byte/chat was not measured; there are: bits_per_byte, "
        "bits_per_byte/km, perplexity/km, bits_per_byte/source/wiki, perplexity/source/wiki"
    ]
    assert hooks.score(500, None) is None
    hooks = Hooks(**unused | {"best_metric": "eval/perplexity/km"})
    assert hooks.score(500, text) == text.languages["km"].perplexity
    assert len(lines) == 1


def test_the_flags_for_a_chat_are_those_that_sample_as_the_run_did() -> None:
    config = default_config()
    config.sample.temperature, config.sample.max_new_tokens = 0.0, 40
    assert _chat_flags(config) == "--temperature 0 --max-new-tokens 40"
    config.sample.update(top_k=0, top_p=0.9, min_p=0.05, repetition_penalty=1.1, stop=("the end", "។"))
    assert _chat_flags(config) == (
        "--temperature 0 --top-k 0 --top-p 0.9 --min-p 0.05 --repetition-penalty 1.1 --stop 'the end' --stop '។' "
        "--max-new-tokens 40"
    )
