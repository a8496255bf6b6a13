"""What is said in the terminal, and that no progress bar runs through it."""

import io
import logging
from typing import Any

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

from lightning_diagnostics import Severity
from tests.callback.screen import screen, shown
from tests.callback.scripted import Other, Reader, Scripted, blind, close, diagnose, still
from tests.helpers import LOGGER, fit, trainer
from tests.patients import BATCHES, Student, loader

WARNING = "TST101 some-illness at model.a (since step 1): It is sick. Fix: mend it."
PREFIX = "lightning_diagnostics "


def _ours(text: str) -> list[str]:
    """Our lines as a terminal shows them, without the prefix."""
    return [line.removeprefix(PREFIX) for line in shown(text) if line.startswith(PREFIX)]


def _say(*callbacks: Any, module: Student | None = None, **settings: Any) -> list[str]:
    with screen() as stream:
        fit(trainer(*callbacks, **settings), module or Student())
    return _ours(stream.getvalue())


def test_a_healthy_run_has_one_line_at_its_start_and_one_at_its_end() -> None:
    assert _say(Scripted({})) == [
        "INFO: watching a script",
        f"INFO: Run finished at step {2 * BATCHES - 1}: no findings.",
    ]


def test_diagnostics_of_one_run_share_the_first_line_and_the_last() -> None:
    said = _say(Scripted({2: [diagnose()]}), Other({3: [diagnose(where="model.b")]}, watches="another"))
    assert said[0] == "INFO: watching a script; another"
    assert said[-1] == f"INFO: Run finished at step {2 * BATCHES - 1}: 2 findings:"
    assert len(said) == 4


def test_a_finding_is_said_once_however_often_it_is_made() -> None:
    script = {step: [diagnose(), still] for step in range(2, 2 * BATCHES)}
    assert [line for line in _say(Scripted(script)) if "TST101" in line] == [f"WARNING: {WARNING}"]


def test_a_finding_that_closes_and_comes_back_is_not_said_again() -> None:
    script = {2: [diagnose()], 4: [close], 6: [diagnose()], 8: [close]}
    assert [line for line in _say(Scripted(script)) if "TST101" in line] == [f"WARNING: {WARNING}"]


def test_a_finding_that_gets_worse_is_said_again_as_what_it_is_now() -> None:
    script = {2: [diagnose()], 4: [diagnose(Severity.ERROR)], 6: [diagnose()], 8: [diagnose(Severity.ERROR)]}
    said = [line for line in _say(Scripted(script)) if "TST101" in line]
    assert said == [f"WARNING: {WARNING}", f"ERROR: {WARNING}"]


def test_each_place_has_its_own_line() -> None:
    script = {2: [diagnose()], 3: [diagnose(where="model.b"), diagnose(where=None)]}
    places = [line.partition(" (")[0] for line in _say(Scripted(script)) if "TST101" in line]
    assert places == ["WARNING: TST101 some-illness" + place for place in (" at model.a", " at model.b", "")]


def test_notes_are_not_said_while_training_and_stand_in_the_summary() -> None:
    with screen() as stream:
        module = Reader(lambda run: stream.getvalue())
        fit(trainer(Scripted({2: [blind, diagnose(Severity.INFO)]})), module)
    assert "TST" not in module.seen[-1]
    assert "no findings, 2 notes:" in stream.getvalue()
    assert stream.getvalue().count("TST901") == stream.getvalue().count("TST101") == 2  # in its table and below it


def test_what_was_too_early_to_say_is_said_at_the_end() -> None:
    with screen() as stream:
        fit(trainer(Scripted({}, undecided=["three of five steps"]), max_epochs=1), Student())
    assert stream.getvalue().splitlines()[-1] == "Too early to say: three of five steps."


def test_a_run_that_is_interrupted_is_summed_up_too() -> None:
    def interrupt(run: Any) -> None:
        if run.global_step == 3:
            raise ZeroDivisionError("the user's own")

    with screen() as stream, pytest.raises(ZeroDivisionError):
        fit(trainer(Scripted({2: [diagnose()]})), Reader(interrupt))
    assert "Run ended by ZeroDivisionError at step 3: 1 finding:" in stream.getvalue()


def test_validation_alone_says_nothing() -> None:
    with screen() as stream:
        trainer(Scripted({})).validate(Student(), loader(2, shuffle=False), verbose=False)
    assert _ours(stream.getvalue()) == []


def test_a_second_fit_neither_repeats_lines_nor_adds_a_handler() -> None:
    with screen() as stream:
        run, module = trainer(Scripted({2: [diagnose()], 9: [diagnose()]}), max_epochs=1), Student()
        fit(run, module)
        run.fit_loop.max_epochs = 2
        fit(run, module)
        assert len(LOGGER.handlers) == 1
    said = _ours(stream.getvalue())
    assert said.count("INFO: watching a script") == 2, "once for each fit"
    assert said.count(f"WARNING: {WARNING}") == 1


# The user's own set-up of logging.


def test_a_root_logger_that_the_user_set_up_gets_our_records_and_nothing_else_happens() -> None:
    with screen() as stream:
        logging.basicConfig(stream=stream, format="USER %(name)s %(message)s", level=logging.WARNING)
        fit(trainer(Scripted({2: [diagnose()]})), Student())
        assert (LOGGER.handlers, LOGGER.propagate, LOGGER.level) == ([], True, logging.NOTSET)
    lines = [line for line in stream.getvalue().splitlines() if "lightning_diagnostics" in line]
    assert lines == [f"USER lightning_diagnostics {WARNING}"]


def test_a_handler_and_a_level_that_the_user_gave_our_logger_stay_as_they_are() -> None:
    with screen() as stream:
        own = logging.StreamHandler(stream)
        LOGGER.addHandler(own)
        LOGGER.setLevel(logging.ERROR)
        fit(trainer(Scripted({2: [diagnose()], 3: [diagnose(Severity.ERROR)]})), Student())
        assert (LOGGER.handlers, LOGGER.propagate, LOGGER.level) == ([own], True, logging.ERROR)
    assert [line for line in stream.getvalue().splitlines() if "TST101" in line] == [WARNING]


def test_a_level_alone_is_kept_beside_our_handler() -> None:
    with screen() as stream:
        LOGGER.setLevel(logging.ERROR)
        fit(trainer(Scripted({2: [diagnose()], 3: [diagnose(Severity.ERROR)]})), Student())
    assert _ours(stream.getvalue()) == [f"ERROR: {WARNING}"]


def test_a_root_logger_that_is_set_up_later_does_not_repeat_our_lines() -> None:
    with screen() as stream:
        module = Reader(lambda run: logging.basicConfig(stream=stream, format="USER %(message)s"))
        fit(trainer(Scripted({2: [diagnose()]})), module)
    assert stream.getvalue().count(WARNING) == 1


# Progress bars.


def _torn(stream: io.StringIO) -> bool:
    return f"{PREFIX}WARNING: {WARNING}" not in shown(stream.getvalue())


def test_a_progress_bar_does_not_run_through_our_lines() -> None:
    with screen() as stream:
        callbacks = [Scripted({5: [diagnose()]}), TQDMProgressBar(refresh_rate=1)]
        fit(trainer(*callbacks, enable_progress_bar=True), Student())
    assert "Epoch 0:" in stream.getvalue(), "there was a bar"
    assert not _torn(stream)


def test_a_plain_handler_would_be_torn() -> None:
    with screen() as stream:
        plain = logging.StreamHandler(stream)
        plain.setFormatter(logging.Formatter("lightning_diagnostics %(levelname)s: %(message)s"))
        LOGGER.addHandler(plain)
        callbacks = [Scripted({5: [diagnose()]}), TQDMProgressBar(refresh_rate=1)]
        fit(trainer(*callbacks, enable_progress_bar=True), Student())
    assert _torn(stream)
