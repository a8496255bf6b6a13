"""A user's command line with our flags: he has written our class instead of Lightning's."""

from networks import Data, Net

from lightning_diagnostics import DiagnosticsCLI

if __name__ == "__main__":
    cli = DiagnosticsCLI(Net, Data, seed_everything_default=1)
    print("after:", *(type(callback).__name__ for callback in cli.trainer.callbacks))
