"""Tensors that are no plain arrays, between the modules of a step that is tried with other samples."""

import pytest
import torch

from lightning_diagnostics import BatchNormGuard
from lightning_diagnostics.probes import sketches
from tests.diagnostics.batch_norm.data import train
from tests.diagnostics.batch_norm.sequences import PROGRAMS
from tests.helpers import accusations


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_has_no_sketch() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(3, 2), torch.zeros(2, 2)])
    assert sketches([nested, torch.zeros(2, 3)], 2)[0].size.tolist() == [0.0, 0.0]
    assert len(sketches([nested, torch.zeros(2, 3)], 2)) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_takes_the_padding_out_in_evaluation_can_be_tried() -> None:
    program = next(program for program in PROGRAMS if program.name == "MaskedAttention")
    guard = BatchNormGuard(strict=True)
    train(program, 0, guard)
    assert accusations(guard) == []
    assert "BN901" not in {finding.code for finding in guard.findings}
