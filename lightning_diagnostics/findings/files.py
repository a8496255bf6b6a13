"""Files that others may read at any moment."""

import contextlib
import os


def write_whole(path: str, text: str) -> None:
    """Write a file beside the old one and rename it, so that nobody reads half of it; a draft that fails is removed.

    Each process has a draft of its own: several may write the same file.

    Raises:
        OSError: if it cannot be written.
    """
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        # What no encoding has (half a pair of surrogates in a key of a dict) is written as an escape, which JSON has.
        with open(draft, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(draft)
        raise
