"""A user's script with a Trainer and nothing else; its word, if it is given one, is the strategy."""

import sys

from lightning.pytorch import Trainer, seed_everything
from networks import Net, Roll, loader

if __name__ == "__main__":
    seed_everything(1, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=len(sys.argv),
        strategy=sys.argv[1] if len(sys.argv) == 2 else "auto",
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[Roll()],
    )
    trainer.fit(Net(), loader(640 * len(sys.argv)), loader(64))
    print("after:", *(type(callback).__name__ for callback in trainer.callbacks))
    print("loaded:", *sorted(name for name in sys.modules if name.startswith("lightning_diagnostics")))
