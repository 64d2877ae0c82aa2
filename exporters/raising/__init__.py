"""Operators of the standard that say attention, read back into canonical nodes."""
