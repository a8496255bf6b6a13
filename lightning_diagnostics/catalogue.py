"""What is registered: the callbacks, and the rules with their pages."""

from importlib import import_module

from lightning_diagnostics import _REGISTRY  # pyright: ignore[reportPrivateUsage]  # this file is its reader
from lightning_diagnostics.findings import Rule

PRESETS = ("light", "standard", "thorough")
"""How much the suite looks at: less often and at fewer layers, the defaults, or more often and at more."""

_ROOMS = "lightning_diagnostics.diagnostics."


def callbacks() -> dict[str, type]:
    """The registered callbacks by their public name, in alphabetical order (imports torch and Lightning)."""
    return {
        name: getattr(import_module(module), name)
        for name, module in sorted(_REGISTRY.items())
        if _has_callback(module)
    }


def names() -> dict[str, str]:
    """The public names of the registered callbacks by the folder in ``diagnostics`` (imports neither)."""
    found = {
        module.removeprefix(_ROOMS).split(".")[0]: name for name, module in _REGISTRY.items() if _has_callback(module)
    }
    return dict(sorted(found.items()))


def _has_callback(module: str) -> bool:
    """Whether a module is the one of a room that has its callback; a room may have other public names, too."""
    return module.startswith(_ROOMS) and module.endswith(".callback")


def rooms() -> list[str]:
    """The names of the folders in ``diagnostics`` that have a registered callback, e.g. ``["graph_leak"]``."""
    return list(names())


def rules(*folders: str) -> list[Rule]:
    """Every rule of these diagnostics, or of all, ordered by code (imports neither torch nor Lightning)."""
    found = (rule for room in folders or rooms() for rule in import_module(f"{_ROOMS}{room}.rules").RULES)
    return sorted(found, key=lambda rule: rule.code)
