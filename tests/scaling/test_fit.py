"""The fit finds the law behind runs, predicts a size that it has not seen, and says how sure it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.scaling.synthetic_runs import LAWS, grid, run_of
from tonsai_jax.errors import UserError
from tonsai_jax.scaling.check import leave_sizes_out
from tonsai_jax.scaling.fit import ScalingFit, adapted, can_fit, fit_runs, load_fit, save_fit
from tonsai_jax.scaling.fit_law import fit_law
from tonsai_jax.scaling.law import Text


@pytest.fixture(scope="module")
def fit() -> ScalingFit:
    return fit_runs(grid(noise=0.005), num_resamples=6)


def test_a_size_that_was_not_fitted_is_predicted_within_two_percent(fit: ScalingFit) -> None:
    larger = run_of(4.7e6, 2e6, 0.35)
    predicted = fit.predict(larger.layer_parameters, larger.texts)
    for name in LAWS:
        assert predicted[name] == pytest.approx(larger.bits_per_byte[name], rel=0.02)


def test_overfitting_and_transfer_are_found_where_the_runs_show_them() -> None:
    """37 epochs of the Khmer are among the runs."""
    law = fit_law(grid(noise=0.0), "km")
    assert law.overfitting == pytest.approx(LAWS["km"].overfitting, rel=0.15)
    assert law.transfer == pytest.approx(LAWS["km"].transfer, rel=0.3)


def test_one_run_that_went_wrong_hardly_moves_the_law() -> None:
    runs = grid(noise=0.0)
    sound = fit_law(runs, "km").bits_per_byte(1e6, "km", runs[0].texts)
    runs[4].bits_per_byte["km"] *= 1.5
    assert fit_law(runs, "km").bits_per_byte(1e6, "km", runs[0].texts) == pytest.approx(sound, rel=0.01)


def test_each_size_is_predicted_from_the_others_and_the_mixes_are_put_in_order() -> None:
    figures = leave_sizes_out(grid())
    assert [row["layer_parameters"] for row in figures] == [200_000, 800_000, 1_800_000]
    assert all(row["worst"] < 0.05 for row in figures)
    assert all(row["pairs"] == 9 for row in figures), "three mixes of each of three lengths"
    assert sum(row["right"] for row in figures) >= 0.8 * 27


def test_runs_of_a_size_do_not_help_to_predict_it() -> None:
    runs = grid(noise=0.0)
    for run in runs[-9:]:  # of the largest size
        run.bits_per_byte.update({name: 1.3 * bits for name, bits in run.bits_per_byte.items()})
    assert leave_sizes_out(runs)[-1]["error"]["km"] == pytest.approx(1 - 1 / 1.3, abs=0.02)


def test_the_interval_holds_the_truth_and_grows_outside_the_runs(fit: ScalingFit) -> None:
    near, far = run_of(8e5, 1.5e6, 0.5), run_of(1e9, 1e9, 0.5)
    predicted, margins = (answer(near.layer_parameters, near.texts) for answer in (fit.predict, fit.margins))
    for name, margin in margins.items():
        assert abs(predicted[name] / near.bits_per_byte[name] - 1) < margin < 0.05
        assert margin < fit.margins(far.layer_parameters, far.texts)[name]


@pytest.mark.full
def test_nine_of_ten_intervals_hold_the_score_of_a_new_run() -> None:
    """21 runs with 2 % of noise: their residuals are less than that, since 8 parameters follow the noise."""
    held = []
    for seed in range(8):
        fit = fit_runs(grid(noise=0.02, seed=seed)[:21], num_resamples=6)
        for new in grid(noise=0.02, seed=100 + seed):
            predicted, margins = (answer(new.layer_parameters, new.texts) for answer in (fit.predict, fit.margins))
            held += [abs(np.log(predicted[name] / new.bits_per_byte[name])) < margins[name] for name in LAWS]
    assert 0.86 < np.mean(held) < 0.96


def test_a_level_that_rests_on_one_run_is_less_sure(fit: ScalingFit) -> None:
    near = run_of(8e5, 1.5e6, 0.5)
    one, nine = (adapted(fit, runs).margins(near.layer_parameters, near.texts)["km"] for runs in ([near], [near] * 9))
    assert fit.margins(near.layer_parameters, near.texts)["km"] < nine < one


def test_three_mixes_of_one_length_are_no_three_lengths() -> None:
    runs = [run_of(size, 1.5e6, share) for size in (2e5, 8e5, 1.8e6) for share in (0.2, 0.5, 0.8)]
    assert not can_fit(runs)
    assert can_fit([*runs, run_of(2e5, 5e5, 0.5), run_of(2e5, 4.6e6, 0.5)])


def test_few_runs_of_other_text_set_the_level_alone(fit: ScalingFit) -> None:
    other = [run_of(8e5, 1.5e6, 0.5, level=1.2), run_of(2e5, 5e5, 0.5, level=1.2)]
    assert not can_fit(other)
    assert can_fit(grid())
    larger = run_of(1.8e6, 4.6e6, 0.5, level=1.2)
    predicted = adapted(fit, other).predict(larger.layer_parameters, larger.texts)
    for name in LAWS:
        assert predicted[name] == pytest.approx(larger.bits_per_byte[name], rel=0.01)


def test_runs_of_other_languages_are_refused(fit: ScalingFit) -> None:
    runs = grid()
    del runs[3].bits_per_byte["km"]
    with pytest.raises(
        UserError, match=r"has scores of en, and runs/.* of en, km; give a folder of runs with the same"
    ):
        fit_runs(runs)
    lao = run_of(8e5, 1.5e6, 0.5)
    lao.bits_per_byte["lo"] = lao.bits_per_byte.pop("km")
    lao.texts["lo"] = lao.texts.pop("km")
    with pytest.raises(UserError, match="has a language that the fit does not have, lo; it has en, km"):
        adapted(fit, [lao])


def test_a_fit_is_the_same_after_it_was_saved(fit: ScalingFit, tmp_path: Path) -> None:
    save_fit(tmp_path / "fit.json", fit)
    assert load_fit(tmp_path / "fit.json") == fit
    (tmp_path / "fit.json").write_text("[]")
    with pytest.raises(UserError, match=r"fit\.json: not a fit that this version can read; write one with tonsai plan"):
        load_fit(tmp_path / "fit.json")


def test_the_shipped_fit_expects_more_of_more_text_and_of_larger_models() -> None:
    fit = load_fit()
    little, much = ({name: Text(25e6, read) for name in LAWS} for read in (2e6, 20e6))
    for name, bits in fit.predict(2e6, much).items():
        assert 0.3 < bits < min(fit.predict(2e5, much)[name], fit.predict(2e6, little)[name]) < 4
    assert np.isfinite(list(fit.margins(1e9, much).values())).all()


def test_a_law_is_of_one_optimizer_and_the_runs_that_adapt_it_bring_theirs() -> None:
    runs = grid()
    adamw = [replace(run, optimizer="adamw") for run in runs]
    fit = fit_runs(runs, num_resamples=0)
    assert (fit.optimizer, adapted(fit, adamw[:1]).optimizer) == ("muon", "adamw")
    with pytest.raises(UserError, match="trained with adamw and muon"):
        fit_runs([*runs[:-1], adamw[-1]], num_resamples=0)
