"""Tiny runs of every kind of encoder and of baselines, with drawn parameters."""

from __future__ import annotations
