"""Files of ``--config`` on a command line of Lightning's, looked into before or beside the parser."""

import os

import yaml

CONFIGS = ("--config", "-c")
"""The flags that such a file follows."""


def content_of(path: str) -> object:
    """What a file holds; None where it cannot be read, which the parser says.

    Also of what is no file: a pipe (``--config <(make_config)``) gives what it has once, and that is the parser's.
    """
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError):
        return None
