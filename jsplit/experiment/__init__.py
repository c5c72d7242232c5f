"""One run and many: settings, training, checkpoints, records, sweeps."""
