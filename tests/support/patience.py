"""How long tests wait."""

PATIENCE_SECONDS = 1800
"""How long a test waits before it calls a process hung: far longer than a machine takes that does other work too."""
