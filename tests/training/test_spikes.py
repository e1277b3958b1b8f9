"""Spikes: which steps are, which are not, and what does not spoil the window."""

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.training.spike_watch import SpikeWatch
from tonsai_jax.training.spikes import Spike, SpikeDetector, SpikeSettings

NAN = math.nan


def falling(steps: int, seed: int = 0, *, noise: float = 0.15) -> Iterator[tuple[float, float]]:
    """Loss and gradient norm of a run from scratch: fast at first, then slowly, with the noise of small batches."""
    rng = random.Random(seed)
    for step in range(steps):
        loss = 1.5 + 6 * math.exp(-step / 60) + 2 * math.exp(-step / 1000) + rng.gauss(0, noise)
        yield loss, math.exp(rng.gauss(0, 0.3)) * (0.5 + 5 * math.exp(-step / 30))


def trained(steps: int = 200, **settings: Any) -> SpikeDetector:
    detector = SpikeDetector(SpikeSettings(**settings))
    for step, values in enumerate(falling(steps)):
        assert detector.add(step, *values) is None
    return detector


def add_all(detector: SpikeDetector, values: list[tuple[float, float]], kind: str = "") -> list[Spike | None]:
    start = detector.next_step or 0
    return [detector.add(start + number, *each, kind) for number, each in enumerate(values)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.01, 0.15, 0.6])
def test_a_run_that_only_learns_has_no_spike(seed: int, noise: float) -> None:
    detector = SpikeDetector(SpikeSettings())
    assert not [step for step, values in enumerate(falling(2000, seed, noise=noise)) if detector.add(step, *values)]
    assert detector.divergence() is None


@pytest.mark.parametrize("seed", range(5))
def test_preferences_learned_by_heart_have_no_spike(seed: int) -> None:
    """DPO: the loss falls from 0.69 to nearly 0, and now and then a pair is still wrong."""
    rng, detector = random.Random(seed), SpikeDetector(SpikeSettings())
    for step in range(1000):
        margin = step / 100 + rng.gauss(0, 1)
        wrong = 0.6 if rng.random() < 0.02 else 0.0
        loss = math.log1p(math.exp(-margin)) + wrong
        assert detector.add(step, loss, math.exp(rng.gauss(-margin / 2, 1.0))) is None, step


def test_a_spike_of_the_loss_and_one_of_the_gradient_norm_are_found() -> None:
    detector = trained()
    none, loss, gradient = add_all(detector, [(3.5, 0.5), (7.0, 0.5), (3.4, 50.0)])
    assert none is None
    assert loss is not None
    assert loss.describe().startswith("loss 7.0000 (median ")
    assert gradient is not None
    assert gradient.describe().startswith("gradient norm 50 (median 0.")
    assert detector.spikes == 2


def test_what_is_not_finite_and_what_spikes_does_not_enter_the_window() -> None:
    """One NaN in a window makes every comparison with its mean or its median False."""
    clean, hit = trained(), trained()
    bad = [(NAN, NAN), (math.inf, 1.0), (3.0, math.inf), (1e11, 1e9)] * 5
    assert all(add_all(hit, bad))
    for detector in (clean, hit):
        detector.add(detector.next_step or 0, 3.0, 0.5)
    (first,), (second,) = (add_all(detector, [(9.0, 0.5)]) for detector in (clean, hit))
    assert first is not None
    assert second is not None
    assert (first.median, first.limit, first.grad_median) == (second.median, second.limit, second.grad_median)


def test_a_nan_in_the_first_steps_does_not_blind_it() -> None:
    detector = SpikeDetector(SpikeSettings())
    assert detector.add(0, NAN, NAN) is not None
    for step, values in enumerate(falling(60), 1):
        assert detector.add(step, *values) is None
    assert detector.add(61, 20.0, 1.0) is not None


def test_a_loss_that_is_ruined_before_the_noise_is_known_is_found() -> None:
    detector = SpikeDetector(SpikeSettings())
    found = add_all(detector, [(6.0, 3.0), (227.0, 9.0), (5e4, 9.0), (1.2e11, 9.0)])
    assert [spike is not None for spike in found] == [False, True, True, True]
    assert detector.divergence() is not None


def test_a_loss_that_climbs_slowly_with_its_window_has_diverged() -> None:
    detector = trained(600)
    values = list(falling(600))
    found = add_all(detector, [(values[-1][0] + step * 0.01, 0.5) for step in range(400)])
    assert any(found), "the window alone would climb too"
    assert detector.divergence() is not None


def test_another_kind_of_batch_starts_the_window_again() -> None:
    detector = trained()
    assert detector.skip_limit(200, "other") == math.inf
    assert detector.add(200, 9.0, 30.0, "other") is None
    assert detector.divergence() is None


def test_a_spike_that_is_not_over_when_the_stage_changes_is_not_forgotten() -> None:
    lost = trained()
    add_all(lost, [(9.0, 0.5)] * 5)
    assert all(add_all(lost, [(9.0, 0.5)] * 100, "other"))
    assert lost.is_lost
    assert lost.calm == 0, "no checkpoint after it is sane"
    assert lost.divergence() is not None

    over = trained()
    add_all(over, [(9.0, 0.5)] * 5)
    assert not any(add_all(over, [(3.0, 30.0)] * 20, "other")), "gradient norms of another stage are not compared"
    assert over.has_recovered()
    assert add_all(over, [(9.0, 30.0)], "other") == [None], "the new window begins"


def test_the_limit_of_a_gradient_norm_does_not_depend_on_when_a_spike_across_stages_is_read() -> None:
    detector = trained(calm_steps=3)
    add_all(detector, [(9.0, 0.5)])
    for step in range(201, 240):
        early = detector.skip_limit(step + 1, "other")  # of `step` nothing is known yet
        detector.add(step, 3.0, 0.5 + step % 3, "other")
        assert detector.skip_limit(step + 1, "other") == early
    assert early < math.inf


def test_a_stage_of_steps_that_are_not_finite_has_diverged() -> None:
    detector = trained()
    add_all(detector, [(NAN, NAN)] * 9, "other")
    assert detector.divergence() == (math.inf, math.inf)
    assert not detector.is_ruined(), "it can still recover"
    add_all(detector, [(5.0, 0.5)] * 20, "other")
    assert detector.divergence() is None


def test_an_episode_ends_after_calm_steps_and_is_lost_after_too_many() -> None:
    detector = trained(calm_steps=3, max_in_a_row=3, recover_steps=8)
    add_all(detector, [(9.0, 0.5)])
    assert not detector.has_recovered()
    add_all(detector, [(3.0, 0.5)] * 3)
    assert detector.has_recovered()
    add_all(detector, [(9.0, 0.5)] * 2)
    assert not detector.is_lost
    add_all(detector, [(9.0, 0.5)])
    assert detector.is_lost, "three in a row"

    again = trained(calm_steps=3, max_in_a_row=3, recover_steps=8)
    add_all(again, [(9.0, 0.5), (3.0, 0.5)] * 3 + [(9.0, 0.5)])
    assert not again.is_lost
    add_all(again, [(9.0, 0.5)])
    assert again.is_lost, "eight steps after the first spike there is still one"


def test_a_detector_goes_on_from_what_a_checkpoint_keeps() -> None:
    detector = trained()
    add_all(detector, [(NAN, math.inf), (9.0, 0.5)])
    other = SpikeDetector(detector.settings, json.loads(json.dumps(detector.state(), allow_nan=False)))
    for step, values in enumerate(falling(50), 202):
        assert detector.add(step, *values) == other.add(step, *values)
        assert detector.skip_limit(step + 1) == other.skip_limit(step + 1)
    assert detector.state() == other.state()


def test_other_thresholds_begin_again() -> None:
    detector = trained()
    add_all(detector, [(9.0, 0.5)] * 30)
    assert detector.divergence() is not None
    other = SpikeDetector(SpikeSettings(loss_rise=8.0), detector.state())
    assert other.divergence() is None
    assert other.has_recovered()
    assert other.spikes == 30


def test_the_limit_of_a_step_is_the_same_whether_the_step_before_it_was_read() -> None:
    detector = trained()
    early = detector.skip_limit(201)  # of step 200 nothing is known yet
    detector.add(200, 3.0, 0.001)
    assert detector.skip_limit(201) == early


def test_the_quickstart_has_no_spike() -> None:
    """Loss and gradient norm of its first 349 steps, as written by `tonsai train --config configs/quickstart.py`."""
    curve = json.loads(Path(__file__).with_name("quickstart_curve.json").read_text(encoding="utf-8"))
    detector = SpikeDetector(SpikeSettings())
    assert not [step for step, (loss, grad_norm) in enumerate(curve) if detector.add(step, loss, grad_norm)]
    assert len(curve) == 349


def resumed(detector: SpikeDetector, workdir: Path, say: Callable[[str], None], *, sane_step: int) -> SpikeWatch:
    """The watch of a run that goes on from the checkpoint of step 215, saved in the state of this detector."""
    return SpikeWatch(
        detector.settings,
        workdir,
        None,  # type: ignore[arg-type]  # no step follows
        detector.state(),
        saved_step=215,
        say=say,
        mark_sane=lambda step: None,
        sane_step=lambda: sane_step,
    )


def test_a_run_saved_in_a_spike_goes_back_at_its_start_unless_the_steps_after_were_sane(tmp_path: Path) -> None:
    detector = trained(action="roll_back")
    add_all(detector, [(9.0, 0.5)] * 15)
    assert resumed(detector, tmp_path, print, sane_step=150).must_go_back
    sane = resumed(detector, tmp_path, print, sane_step=215)
    assert not sane.must_go_back
    assert sane.detector.add(215, 9.0, 0.5) is not None
    assert not sane.must_go_back, "the first spike of a new episode"
    assert sane.detector.episode == [(215, 9.0, 0.5)]


def end_after(loss: float, workdir: Path, action: Any, *, complete: bool) -> list[str]:
    """What a run says that ends after 200 sane steps and 15 with this loss."""
    detector = trained(action=action)
    add_all(detector, [(loss, 0.5)] * 15)
    lines: list[str] = []
    resumed(detector, workdir, lines.append, sane_step=150).end(215, complete=complete)
    return lines


@pytest.mark.parametrize(
    ("loss", "action", "complete"),
    [(8.0, "warn", True), (8.0, "roll_back", True), (1.2e11, "warn", False), (NAN, "skip", False)],
)
def test_a_run_that_is_complete_or_ruined_does_not_end_well(
    loss: float, action: str, complete: bool, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"^step 215: the run has diverged: .* checkpoint is that of step 150\. "
    ) as raised:
        end_after(loss, tmp_path, action, complete=complete)
    assert ("or set spikes.action=roll_back" in str(raised.value)) == (action != "roll_back")


@pytest.mark.parametrize(("loss", "action"), [(8.0, "warn"), (8.0, "skip"), (8.0, "roll_back"), (1.2e11, "roll_back")])
def test_a_run_that_is_stopped_in_a_spike_says_so_and_can_go_on(loss: float, action: str, tmp_path: Path) -> None:
    (line,) = end_after(loss, tmp_path, action, complete=False)
    assert line.startswith(
        f"step 215: stopped in a spike: the median of the last losses is {loss:.4g}, above the limit of "
    )
    assert line.endswith("the last sane checkpoint is that of step 150")


def test_a_stage_without_a_sane_step_does_not_end_well(tmp_path: Path) -> None:
    detector = trained()
    add_all(detector, [(NAN, NAN)] * 9, "other")
    why = "the median of the last losses is inf, and no step since its stage began was sane"
    with pytest.raises(UserError, match=f"^step 209: the run has diverged: {why}; "):
        resumed(detector, tmp_path, print, sane_step=150).end(209, complete=True)
