"""Every seed that something is measured with, by its use."""

TRAINING_EVALUATION = 2**40
