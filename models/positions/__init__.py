"""Where a position enters an attention: added to x, turned into q and k, or added to the scores. One file per scheme."""
