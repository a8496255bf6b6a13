"""`DiagnosticsCLI`: Lightning's command line with flags for the suite."""

import inspect
from typing import Any

from lightning.pytorch.cli import LightningCLI
from typing_extensions import override

from lightning_diagnostics.callback.flags import DiagnosticsFlags


class DiagnosticsCLI(DiagnosticsFlags, LightningCLI):
    """Lightning's command line with flags for the suite, and with short names for our callbacks.

    ``python train.py fit --diagnostics=thorough --diagnostics.ignore=dead-units:decoder*``, or in a file
    ``diagnostics: {preset: thorough, activations: {every_n_train_steps: 10}}``. The suite is on unless it is switched
    off, with ``--diagnostics=off``. For ``pytorch_lightning``, and for other defaults, see `DiagnosticsFlags`.

    Args:
        model_class: As of ``lightning.pytorch.cli.LightningCLI``.
        datamodule_class: As of ``LightningCLI``.
        kwargs: The other arguments of ``LightningCLI``.

    Raises:
        TypeError: if the model or the data module is one of ``pytorch_lightning``.
    """

    @override
    def __init__(self, model_class: Any = None, datamodule_class: Any = None, **kwargs: Any) -> None:
        _check_package("model_class", model_class)
        _check_package("datamodule_class", datamodule_class)
        super().__init__(model_class, datamodule_class, **kwargs)


def _check_package(argument: str, kind: Any) -> None:
    """Refuse a class of ``pytorch_lightning``, whose Trainer is another."""
    bases = inspect.getmro(kind) if inspect.isclass(kind) else ()
    packages = {base.__module__.partition(".")[0] for base in bases}
    if "pytorch_lightning" in packages and "lightning" not in packages:
        raise TypeError(
            f"{argument}={kind.__name__} is a class of pytorch_lightning, and DiagnosticsCLI is a command line of "
            "lightning.pytorch: write class CLI(lightning_diagnostics.DiagnosticsFlags, "
            "pytorch_lightning.cli.LightningCLI) and call that"
        )
