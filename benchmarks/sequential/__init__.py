"""What the benchmarks of the sequential tests and detectors share."""
