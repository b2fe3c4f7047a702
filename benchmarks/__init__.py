"""One file per claim; each measures a ratio in one run, since machines are noisy."""
