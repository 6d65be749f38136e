"""One module per public source: address, checksum, licence, parser, expected statistics.

A source of sequences has SOURCE, DATASETS (in the order of its paper) and load(name):

    from jaxrec.data.sources import ticoserec
    sequences = ticoserec.load("Beauty")

A source of labelled tables has TABLES and load_impressions(name), which returns them split; one of click
sessions has LOGS and load(name). Sources without a public address read your own files, load(paths): aliccp,
aliexpress, criteo and fuxictr return labelled tables, amazon and taobao sequences with side information.
"""
