"""A user's command line with flags of his own, which is off unless asked for, and which he runs himself."""

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from networks import Data, Net

from lightning_diagnostics import DiagnosticsFlags


class CLI(DiagnosticsFlags, LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--tag", default="none")
        parser.set_defaults({"diagnostics.preset": "off"})


if __name__ == "__main__":
    cli = CLI(Net, Data, run=False, seed_everything_default=1)
    cli.trainer.fit(cli.model, cli.datamodule)
    print("tag:", cli.config.tag)
