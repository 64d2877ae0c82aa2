"""Imported before torch: its OpenMP workers are told to give up soon.

They would go on busy-waiting for some milliseconds after a run, on the cores of whoever comes next. Within a run their waits are
far shorter than this.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
