"""A user's command line which gets its words from the script."""

import json
import sys

from networks import Data, Net

from lightning_diagnostics import DiagnosticsCLI

if __name__ == "__main__":
    args = json.loads(sys.argv.pop())
    DiagnosticsCLI(Net, Data, args=args, seed_everything_default=1)
