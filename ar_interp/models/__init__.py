"""The hooked transformer and its parts."""
