"""The running script once more, in a fresh process that measures one candidate and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def alone(name: str) -> Any:
    """Runs the script with its own arguments and `--alone name`: what the last line that it prints says, which is JSON."""
    done = subprocess.run([sys.executable, *sys.argv, "--alone", name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed in a process of its own: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
