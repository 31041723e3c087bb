"""Grids of trainings, each point with many seeds: cut into shards that are trained once, whatever dies on the way."""
