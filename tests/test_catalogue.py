"""The registry: literal and complete, and readable without torch."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_diagnostics as package
from lightning_diagnostics import catalogue
from lightning_diagnostics.callback import DiagnosticCallback
from lightning_diagnostics.findings import limit_table
from tests.helpers import Member, every_kind

HOME = Path(package.__file__).parent
FAMILIES = ("ACT", "GRD", "GAP", "BN", "MEM", "LR", "EVP", "INI", "LOS", "DAT")


def _assigned(name: str) -> object:
    """What the package's file assigns to a name, read as a literal."""
    for statement in ast.parse((HOME / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [name]:
            return ast.literal_eval(statement.value)
    pytest.fail(f"{name} is not assigned")


def _fresh(code: str) -> str:
    """What the code prints in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_registry_is_a_literal_table_and_the_public_names_are_its_keys() -> None:
    assert _assigned("_REGISTRY") == package._REGISTRY
    assert _assigned("__all__") == package.__all__ == sorted(package._REGISTRY)


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse((HOME / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {name.name: line.module for line in block.body for name in line.names}  # type: ignore[attr-defined]  # imports only
    assert imported == package._REGISTRY


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_resolves_to_what_its_module_calls_so(name: str) -> None:
    found = getattr(package, name)
    assert found is getattr(importlib.import_module(package._REGISTRY[name]), name)
    assert found.__name__ == name
    assert found.__doc__


def test_dir_lists_every_public_name_before_any_was_used() -> None:
    listed = _fresh("import lightning_diagnostics; print(*dir(lightning_diagnostics))").split()
    assert set(package.__all__) <= set(listed)
    assert listed == sorted(set(listed))


def test_an_unknown_attribute_is_quoted_beside_the_public_names() -> None:
    with pytest.raises(AttributeError) as caught:
        _ = package.GraphLeakDetektor
    expected = "module 'lightning_diagnostics' has no attribute 'GraphLeakDetektor'; its public names are "
    assert str(caught.value) == expected + ", ".join(package.__all__)
    assert not hasattr(package, "__path_of_another_tool__")


def test_every_diagnostic_in_the_package_is_registered() -> None:
    folders = {path.parent.name for path in HOME.glob("diagnostics/*/callback.py")}
    assert folders == set(catalogue.rooms())
    subclasses = {
        kind.__name__ for kind in DiagnosticCallback.__subclasses__() if kind.__module__.startswith(HOME.name)
    }
    assert subclasses == catalogue.callbacks().keys()


def test_every_callback_is_registered_under_its_name_in_alphabetical_order() -> None:
    callbacks = catalogue.callbacks()
    assert list(callbacks) == sorted(callbacks)
    assert {name: kind.__name__ for name, kind in callbacks.items()} == {name: name for name in callbacks}
    assert all(issubclass(kind, DiagnosticCallback) for kind in callbacks.values())


def test_codes_and_names_are_unique_and_of_a_known_family() -> None:
    rules = catalogue.rules()
    words = [word for rule in rules for word in (rule.code, rule.name, *rule.aliases)]
    assert len(words) == len(set(words))
    assert [rule.code for rule in rules] == sorted(rule.code for rule in rules)
    for rule in rules:
        assert re.fullmatch(rf"({'|'.join(FAMILIES)})\d{{3}}", rule.code)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
        assert list(rule.severities) == sorted(set(rule.severities))


@every_kind
def test_the_rules_of_a_callback_are_those_of_its_room(member: Member) -> None:
    listed = {rule.code for rule in (*member.kind.rules, member.kind.blind_rule)}
    module = importlib.import_module(f"lightning_diagnostics.diagnostics.{member.room}.rules")
    assert listed == {rule.code for rule in module.RULES}
    assert listed <= {rule.code for rule in catalogue.rules()}


@every_kind
def test_every_limit_is_named_after_a_rule_of_its_room_and_says_where_it_is_from(member: Member) -> None:
    names = {rule.name for rule in (*member.kind.rules, member.kind.blind_rule)}
    for key, (field, described) in limit_table(member.kind.default_limits).items():
        assert key.rpartition(".")[0] in names
        assert field.name.endswith(key.rpartition(".")[2])
        assert described.meaning
        assert described.source
        assert described.low <= described.default <= described.high


def test_the_rules_are_read_without_torch_lightning_or_numpy() -> None:
    heavy = {"torch", "lightning", "pytorch_lightning", "numpy", "tensorboard", "torchmetrics"}
    code = "import sys; from lightning_diagnostics import catalogue; print(len(catalogue.rules()), *sys.modules)"
    count, *loaded = _fresh(code).split()
    assert int(count) == len(catalogue.rules()) > 0
    assert heavy & set(loaded) == set()
    assert "numpy" in _fresh("import numpy, sys; print(*sys.modules)").split()  # that it would be seen


def test_the_package_can_be_imported_where_gradients_are_switched_off() -> None:
    program = "import torch; torch.set_grad_enabled(False); from lightning_diagnostics import GraphLeakDetector"
    subprocess.run([sys.executable, "-c", program], check=True)
