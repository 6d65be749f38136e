"""One file per public source: address, checksum, licence, parser, expected statistics.

A source has SOURCE, DATASETS (in the order of its paper) and load(name):

    from jaxrec.data.sources import ticoserec
    sequences = ticoserec.load("Beauty")

A source of labelled tables has TABLES and load_impressions(name), which gives them split; one of click
sessions has LOGS and load(name). Those without a public address read files of yours, load(paths): aliccp,
aliexpress, criteo and fuxictr give labelled tables, amazon and taobao sequences with what is known of items.
"""
