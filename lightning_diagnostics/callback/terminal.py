"""What is said in the terminal: through the ``lightning_diagnostics`` logger, and without tearing a progress bar."""

import logging
import sys
from collections.abc import Sequence

from lightning_diagnostics.findings import Finding, Severity, count
from lightning_diagnostics.findings.report import listing

logger = logging.getLogger("lightning_diagnostics")

_LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}


class _BarAwareHandler(logging.StreamHandler):  # pyright: ignore[reportMissingTypeArgument]  # not generic at run time before 3.11
    """Writes above tqdm's bars instead of through them; Rich redirects the stream by itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to the stream that is the standard error now (a notebook or a test may have changed it)."""
        try:
            from tqdm import tqdm

            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001  # as in logging itself: a handler must not fail its caller
            self.handleError(record)


def set_up() -> None:
    """Give the logger a handler, as Lightning does for its own, unless the user has set up logging."""
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = _BarAwareHandler()
    handler.setFormatter(logging.Formatter("lightning_diagnostics %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def say(finding: Finding) -> None:
    """The line of a finding."""
    set_up()  # the sanity check may have found it, before the run is announced
    logger.log(_LEVELS[finding.severity], "%s", finding.line())


def summary(findings: Sequence[Finding], *, steps: int, undecided: Sequence[str], ending: str) -> str:
    """What is said at the end of a run.

    Args:
        findings: In the order they are to be listed in.
        steps: The last step of the run.
        undecided: What it was too early to say.
        ending: How the run ended, e.g. ``"finished"`` or ``"ended by KeyboardInterrupt"``.
    """
    head = f"Run {ending} at step {steps}: {count(findings)}"
    parts = [head + ("." if not findings else ":"), *listing(findings)]
    parts += [f"Too early to say: {text}." for text in undecided]
    return "\n".join(parts)
