"""The parameters of a model by name, and the outermost modules that some of them make up."""

import pytest
import torch
from torch import nn

from lightning_diagnostics.diagnostics.gradients.parameters import by_layer, outermost, parameters_of

ALL = ["a.0.weight", "a.0.bias", "a.1.weight", "b.weight", "scale"]


@pytest.mark.parametrize(
    ("affected", "found"),
    [
        ([], {}),
        (["a.0.weight"], {"a.0.weight": ["a.0.weight"]}),
        (["a.0.weight", "a.0.bias"], {"a.0": ["a.0.weight", "a.0.bias"]}),
        (["a.1.weight"], {"a.1": ["a.1.weight"]}),
        (["a.1.weight", "a.0.bias", "a.0.weight"], {"a": ["a.1.weight", "a.0.bias", "a.0.weight"]}),
        (["a.0.weight", "b.weight"], {"a.0.weight": ["a.0.weight"], "b": ["b.weight"]}),
        (["scale"], {"scale": ["scale"]}),
        (ALL, {"self": ALL}),
    ],
)
def test_the_outermost_module_that_is_affected_as_a_whole_is_named(
    affected: list[str], found: dict[str, list[str]]
) -> None:
    assert outermost(affected, ALL) == found


def test_a_name_that_begins_as_another_is_another() -> None:
    names = ["net.1.weight", "net.10.weight", "net.10.bias"]
    assert outermost(["net.1.weight"], names) == {"net.1": ["net.1.weight"]}
    assert outermost(["net.10.weight"], names) == {"net.10.weight": ["net.10.weight"]}


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.body[0].requires_grad_(False)
        self.body[1].to(torch.bfloat16)


def test_parameters_are_known_by_their_first_name_in_the_order_of_registration() -> None:
    found = parameters_of(_Model())
    assert [(p.name, p.layer, p.elements) for p in found.values()] == [
        ("scale", "self", 4),
        ("table.weight", "table", 20),
        ("body.0.weight", "body.0", 12),
        ("body.0.bias", "body.0", 3),
        ("body.1.weight", "body.1", 3),
        ("body.1.bias", "body.1", 3),
    ]
    assert [p.matrix for p in found.values()] == [False, True, True, False, False, False]
    assert [p.table for p in found.values()] == [False, True, False, False, False, False]
    assert [p.trains for p in found.values()] == [True, True, False, False, True, True]
    assert [p.half_ulp for p in found.values()] == [None, None, None, None, 2.0**-8, 2.0**-8]


@pytest.mark.parametrize(
    ("dtype", "half"),
    [(torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8), (torch.float32, None), (torch.float64, None)],
)
def test_half_of_the_spacing_is_what_is_just_lost_beside_one(dtype: torch.dtype, half: float | None) -> None:
    (found,) = parameters_of(nn.ParameterList([torch.ones(1, dtype=dtype)])).values()
    assert found.half_ulp == half
    if half is not None:
        one = torch.ones((), dtype=dtype)
        assert one + torch.tensor(half, dtype=dtype) == one
        assert one + torch.tensor(2 * half, dtype=dtype) > one


def test_the_names_of_wrappers_are_left_out() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    plain = [p.name for p in parameters_of(nn.ModuleDict({"net": net})).values()]
    wrapped = nn.ModuleDict({"net": torch.compile(net, backend="eager")})
    assert any("_orig_mod" in name for name, _ in wrapped.named_parameters())
    assert [p.name for p in parameters_of(wrapped).values()] == plain


def test_layers_are_the_modules_that_have_parameters_of_their_own() -> None:
    layers = by_layer(parameters_of(_Model()))
    assert {layer: [p.name for p in own] for layer, own in layers.items()} == {
        "self": ["scale"],
        "table": ["table.weight"],
        "body.0": ["body.0.weight", "body.0.bias"],
        "body.1": ["body.1.weight", "body.1.bias"],
    }


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_layer_whose_shape_is_not_known_yet_has_its_names_and_no_elements() -> None:
    lazy = nn.Sequential(nn.LazyLinear(2))
    before = parameters_of(lazy)
    assert [(p.name, p.elements, p.matrix) for p in before.values()] == [("0.weight", 0, False), ("0.bias", 0, False)]
    lazy(torch.ones(1, 3))
    after = parameters_of(lazy)
    assert [(p.name, p.elements, p.matrix) for p in after.values()] == [("0.weight", 6, True), ("0.bias", 2, False)]
    assert before.keys() == after.keys()
