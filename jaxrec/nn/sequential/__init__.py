"""Encoders of item sequences: ids [B, L] to one vector a position [B, L, D]."""
