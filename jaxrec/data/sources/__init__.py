"""One file per public source: address, checksum, licence, parser, expected statistics.

A source has SOURCE, DATASETS (in the order of its paper) and load(name):

    from jaxrec.data.sources import ticoserec
    sequences = ticoserec.load("Beauty")
"""
