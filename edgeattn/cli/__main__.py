"""`python -m edgeattn.cli`."""

from edgeattn.cli import main

main()
