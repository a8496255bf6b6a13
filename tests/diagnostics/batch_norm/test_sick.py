"""Each cause, planted in a small network on digits: found at the right module in one evaluation, not in its twin."""

import pytest

from lightning_diagnostics import BatchNormGuard, Severity
from tests.diagnostics.batch_norm import sick
from tests.helpers import accusations

every_case = pytest.mark.parametrize("case", sick.CASES, ids=str)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


def _examined(case: sick.Case, *, ill: bool) -> BatchNormGuard:
    """Train with a guard; all that is validated is what comes at the end."""
    guard = BatchNormGuard(strict=True)
    module = sick.made(case.make, sick=ill)
    every = case.every or case.epochs
    run = sick.run(module, guard, data=case.data(sick=ill), max_epochs=case.epochs, check_val_every_n_epoch=every)
    assert run.state.finished
    return guard


@every_case
def test_a_mistake_is_found_at_the_right_module_within_one_evaluation(case: sick.Case) -> None:
    guard = _examined(case, ill=True)
    right = [finding for finding in guard.findings if finding.code == case.code]
    assert {finding.where for finding in right} == set(case.where)
    assert all(finding.status == "open" for finding in right)
    assert all((finding.severity == Severity.INFO) == case.note for finding in right)
    assert {finding.code for finding in accusations(guard)} <= {case.code, *case.others}
    assert all(case.place in finding.message for finding in right)


@pytest.mark.parametrize(
    "case",
    [case if i % 4 == 0 else pytest.param(case, marks=pytest.mark.slow) for i, case in enumerate(sick.CASES)],
    ids=str,
)
def test_its_repaired_twin_is_left_in_peace(case: sick.Case) -> None:
    guard = _examined(case, ill=False)
    assert accusations(guard) == []
    assert [finding for finding in guard.findings if finding.code == case.code] == []
