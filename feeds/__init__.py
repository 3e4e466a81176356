"""Feeds: where ticks come from. Each is an async iterator of `Ticks`, opened from a spec by `feeds.spec.open_feed`.

What all feeds share, pure:
    ticks       `Ticks` (equal-length columns) and `Symbols` (key to row): what the quote table consumes
    fields      the names that a tick's fields go by
    convert     columns of any type to numbers, times and texts
    decode      records to ticks, and why some cannot be read
    vendors     what the columns of vendors' tables mean beyond their names
    objects     decoded objects to records
    jsonlines   lines of JSON to records
    capture     raw captures of Binance's streams to records
    values      the values of a log to records: JSON, MessagePack
    encode      ticks to the values of a log
    ordering    the rows of one recording put in order of time
    merge       several recordings as one, by time
    blocks      what a log is read as: blocks of numbered rows, and cursors
    spans       between which times the row groups of Parquet lie
    parts       what the Parquet parts of a recording hold

What touches the world:
    feed        the `Feed` protocol, its counters, and `FeedError`
    clock       the time of day, or a hand-turned one in tests
    pacing      letting ticks out when they are due; blocking work in a thread
    options     a spec taken apart
    formats     opening a format of values by its name, also one that a package brings
    dbn         Databento's binary encoding to records
    csvlines    lines of CSV to records
    readers     files of all formats to blocks of records
    log         recorded files as one log, read from any time in it
    replay      recorded files as a feed
    simulated   a made-up market as a feed
    kafka       Kafka topics as a feed: a package of its own, with a map of its own
    recorder    any feed into Parquet parts
    spec        `open_feed`, and the table of schemes

To write a feed, read docs/feeds.md.
"""
