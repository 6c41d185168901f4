"""How many processes may work at once for tools."""

import os


def places_here() -> int:
    """Give how many processes may work at once on this machine: one for each core, up to four, and one more."""
    return max(2, min(4, os.cpu_count() or 2)) + 1
