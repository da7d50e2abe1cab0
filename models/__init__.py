"""Vectors to losses and scores: single-device code, plain modules."""
