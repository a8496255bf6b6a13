"""A user's command line for one model and one data module."""

from lightning.pytorch.cli import LightningCLI
from networks import Data, Net

if __name__ == "__main__":
    cli = LightningCLI(Net, Data, seed_everything_default=1)
    print("after:", *(type(callback).__name__ for callback in cli.trainer.callbacks))
