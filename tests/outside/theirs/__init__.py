"""A package of somebody else's: a process, an attention type, and a study with its theory, probe and figure."""
