"""Hooked models and their parts; every config of this package is known once one is imported."""

from ar_interp.models.next_token_config import NextTokenConfig as NextTokenConfig
