"""What people who tried it for the first time have run into."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_diagnostics import compare, from_folder
from lightning_diagnostics.diagnostics.expected_performance.curve import support
from lightning_diagnostics.diagnostics.expected_performance.reading import reading
from lightning_diagnostics.diagnostics.expected_performance.rules import Limits, non_random_search
from lightning_diagnostics.findings import Diagnosis
from tests.diagnostics.expected_performance.made import curve, keep, trial, trials
from tests.diagnostics.expected_performance.models import Scripted, expected, fit, record, rows, trainer
from tests.helpers import heard

SCORES = [0.5, 0.75, 0.25, 1.0, 0.625]


def test_where_bands_overlap_since_nothing_is_known_it_is_said() -> None:
    high, low = (
        curve(trials([base + i / 200 for i in range(20)]), name=name) for name, base in (("a", 0.8), ("b", 0.2))
    )
    found = compare(high, low)
    assert [(lead.winner, lead.first, lead.last) for lead in found.trials] == [("a", 1, 3)]
    assert found.known_trials == 3
    words = "(Beyond n = 3 nothing can be said: so few trials do not bound how good the best of n may be.)"
    assert words in str(found).splitlines()


@pytest.mark.parametrize(("count", "words"), [(5, "(Nothing can be said: "), (10, " a beats b at n = 1; elsewhere ")])
def test_so_few_trials_tell_little_or_nothing(count: int, words: str) -> None:
    high, low = (curve(trials([score] * count), name=name) for name, score in (("a", 0.8), ("b", 0.2)))
    assert words in str(compare(high, low))


def test_where_a_band_could_lie_above_the_other_to_the_end_nothing_is_said_of_it() -> None:
    one, other = (curve(trials([score] * 400), name=name, band="dkw") for name, score in (("a", 0.2), ("b", 0.8)))
    found = compare(one, curve(trials([0.8] * 10), name="c", band="dkw"))
    assert (found.known_trials, found.most_trials) == (10, 10)
    assert "nothing can be said" not in str(found)
    assert "nothing can be said" in str(compare(one, other))  # up to 400, of which 400 say little


def test_a_random_search_that_prunes_is_not_called_random() -> None:
    found = curve([*trials(SCORES, search="random"), trial(6, 0.9, "pruned", search="random")])
    assert "The search was not random (pruning): " in str(found)
    said = non_random_search.check(reading(found, found.trials, step=0, silence=60.0), Limits())
    assert isinstance(said, Diagnosis)
    assert "not random (pruning)," in said.message


def test_trials_that_were_never_finite_are_listed_as_failed() -> None:
    lines = str(curve([trial(number, None, readings=2) for number in range(6)])).splitlines()
    assert lines[0].endswith("no score.")
    assert [line.split()[1] for line in lines[-6:]] == ["failed"] * 6


def test_a_number_for_failed_trials_that_flatters_is_said() -> None:
    some = [*trials([*SCORES[:3], 0.6, 0.7]), trial(6, None, "failed")]
    assert "counted as 50, which is better than the best score." in str(curve(some, failed=50.0))
    assert "counted as 0.1." in str(curve(some, failed=0.1))
    losses = [trial(n, 1.0 + n, metric="val_loss", mode="min") for n in range(5)]
    losses.append(trial(6, None, "failed", metric="val_loss", mode="min"))
    assert "counted as 0.5, which is better" in str(curve(losses, metric="val_loss", mode="min", failed=0.5))


@pytest.mark.parametrize(("most", "is_said"), [(120, False), (121, True)])
def test_scores_of_more_and_of_fewer_samples_are_told_apart(most: int, is_said: bool) -> None:
    some = [*trials(SCORES, validation_samples=100), trial(6, 0.4, validation_samples=most)]
    assert (f"The scores are of 100 to {most} validation samples" in str(curve(some))) == is_said


def test_a_setting_of_a_thousand_letters_does_not_fill_the_page() -> None:
    lines = str(curve(trials(SCORES[:2], hyperparameters={"widths": [7] * 10_000}))).splitlines()
    assert lines[-1].endswith("(widths=[7, 7, 7, 7, 7, 7, 7, 7, 7,...)")


@pytest.mark.parametrize("largest", [1.0, 1.0000001])
def test_a_share_that_is_rounded_up_is_a_share(largest: float) -> None:
    assert support("val_auroc", [0.5, largest]) == (0.0, largest)
    assert support("val_acc", [50.0, 100 * largest]) == (0.0, 100 * largest)
    assert support("val_acc", [0.5, 1.5]) == (0.0, 100.0)


def test_what_is_no_path_is_quoted() -> None:
    folder: Any = 3
    with pytest.raises(TypeError, match=r"^folder=3: expected a path$"):
        from_folder(folder)


def test_runs_in_folders_of_any_name_are_found(tmp_path: Path) -> None:
    for name in ("hparams", "wandb", "mlruns"):
        keep(trials([0.5]), tmp_path / name)
    assert len(from_folder(tmp_path).trials) == 1  # one run, copied
    keep([trial(n, 0.5) for n in range(1, 4)], tmp_path / "hparams" / "more")
    assert len(from_folder(tmp_path).trials) == 4


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_mode_that_the_name_contradicts_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    with heard() as records:
        saves = ModelCheckpoint(tmp_path / "saved", monitor="val_acc")  # whose mode is "min" unless told
        fit(trainer(expected(monitor=None, mode=None), tmp_path, saves, enable_checkpointing=True), Scripted())
    lines = [line.getMessage() for line in records if "watching" in line.getMessage()]
    assert "the lowest val_acc of this run (by its name the highest would be best), a trial of" in lines[0]
    with heard() as records:
        fit(trainer(expected(monitor="val_acc", mode=None), tmp_path), Scripted())
    lines = [line.getMessage() for line in records if "watching" in line.getMessage()]
    assert "the highest val_acc of this run, a trial of" in lines[0]


@pytest.mark.parametrize(("loader", "samples"), [(0, 8), (1, 4)])
def test_the_samples_of_a_score_are_those_of_its_loader(loader: int, samples: int, tmp_path: Path) -> None:
    run = trainer(expected(monitor=f"val_acc/dataloader_idx_{loader}"), tmp_path, max_epochs=1)
    run.fit(Scripted(), rows(6), [rows(8), rows(4)])
    assert record(tmp_path)["validation_samples"] == samples
