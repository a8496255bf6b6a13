"""Names of calls over a resume, whether or not the program was edited in between."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.probes.test_calls import Watched

PROGRAM = """
def forward(net, x):
    x = functional.relu(net[0](x))
    x = functional.relu(net[1](x))
    x = functional.relu(x)
    return functional.relu(x)
"""
NAMES = ["self/relu", "self/relu.2", "self/relu.3", "self/relu.4"]


def _forward(program: str) -> Callable[[nn.Module, Tensor], Tensor]:
    home: dict[str, Any] = {"functional": functional}
    exec(compile(program, "program.py", "exec"), home)
    return home["forward"]


def _seen(program: str, names: dict[str, str]) -> list[str]:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with Watched(net, names=names) as watched:
        _forward(program)(net, torch.ones(2, 4))
    return watched.names


@pytest.mark.parametrize(
    "edited",
    [
        PROGRAM,
        PROGRAM.replace("net[1](x))\n", "net[1](x))\n\n    # Again.\n"),
    ],
    ids=["as-it-was", "line-between"],
)
def test_names_are_kept_over_a_resume_where_only_lines_have_moved(edited: str) -> None:
    names: dict[str, str] = {}
    assert _seen(PROGRAM, names) == NAMES
    resumed = dict(names)
    assert _seen(edited, resumed) == NAMES
    assert _seen(edited, resumed) == NAMES
    assert sorted(resumed.values()) == NAMES


def test_a_call_that_was_added_before_a_resume_gets_a_name_of_its_own() -> None:
    names: dict[str, str] = {}
    _seen(PROGRAM, names)
    added = PROGRAM.replace("    return", "    x = functional.tanh(x)\n    return")
    assert _seen(added, dict(names)) == [*NAMES[:3], "self/tanh", NAMES[3]]


def test_calls_on_different_lines_of_one_run_do_not_take_each_others_names() -> None:
    names: dict[str, str] = {}
    first = "def forward(net, x):\n    return functional.relu(x)\n"
    second = "def forward(net, x):\n\n    return functional.relu(x)\n"
    net = nn.Identity()
    watched = Watched(net, names=names)
    for program in (first, second, first, second):
        with watched:
            _forward(program)(net, torch.ones(2, 4))
    assert watched.names == NAMES[:2] * 2
