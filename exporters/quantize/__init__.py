"""Smaller numbers in a bundle's files: kinds per runtime, what each costs in fidelity and brings in time, and the choice."""
