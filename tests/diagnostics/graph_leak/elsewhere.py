"""A module of the user's own that keeps a variable."""

HISTORY: list[object] = []
