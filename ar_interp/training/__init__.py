"""Training: exact population losses and sampled batches, many seeds at once."""
