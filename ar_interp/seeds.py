"""Every seed that something is measured with, by its use."""

UNTRAINED = 2**20  # initial weights of controls
HEADS_CONTEXTS, HEADS_READOUT = 0, 1  # claims about diagonal heads
TRAINING_EVALUATION = 2**40
CLAIMS = 2**42
SWAP_SOURCE, SWAP_TARGET = 2**43, 2**43 + 1
REMOVAL = 2**43 + 2
EXHIBITS, EXHIBITS_SOURCE = 2**44, 2**44 + 1  # figures of explorer and report
