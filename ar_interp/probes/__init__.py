"""Probes: a model and tensors in, a frozen result out."""
