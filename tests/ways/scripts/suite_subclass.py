"""A user's command line with our flags, for any model."""

from lightning_diagnostics import DiagnosticsCLI

if __name__ == "__main__":
    DiagnosticsCLI(seed_everything_default=1)
