"""The classes of Lightning's two packages, ``lightning`` and ``pytorch_lightning``, whichever the script uses.

Their classes are not the same, and in places a Trainer or a command line of the one refuses a callback of the other.
Ours are callbacks of each package that the script has imported, before us or after. A package that the script does not
use is not imported: that alone would have Lightning's messages come from another logger than the user has set up.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

PACKAGES = ("lightning.pytorch", "pytorch_lightning")

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    _loaded = [name for name in PACKAGES if hasattr(sys.modules.get(name), "Callback")]
    _first = import_module(_loaded[0] if _loaded else PACKAGES[0])
    LightningModule, Trainer = _first.LightningModule, _first.Trainer

    class Callback(_first.Callback):
        """What all of our callbacks inherit from."""

        # Lightning gives every callback the module's bound ``log`` and ``log_dict`` and never takes them back. Ours
        # draw by other means, and do not take them: a callback would keep the module alive, and copies would carry it.
        log = log_dict = property(fset=lambda self, value: None)


def adopt() -> None:
    """Make our callbacks those of a package, too, that has been imported since."""
    kinds = (getattr(sys.modules.get(name), "Callback", None) for name in PACKAGES)
    strangers = tuple(kind for kind in kinds if kind is not None and not issubclass(Callback, kind))
    if strangers:
        Callback.__bases__ += strangers


adopt()

__all__ = ["Callback", "LightningModule", "Trainer", "adopt"]
