"""Training: plans, seeds, devices, checkpoints and resuming, on Lightning."""
