"""Programs on real data, a file for each command of ``python -m rnnfast``."""
