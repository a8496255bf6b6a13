"""A user's command line for any model and any data module."""

from lightning.pytorch.cli import LightningCLI


def main() -> None:
    cli = LightningCLI(seed_everything_default=1)
    print("after:", *(type(callback).__name__ for callback in cli.trainer.callbacks))


if __name__ == "__main__":
    main()
