"""Feeds: where ticks come from. Each is an async iterator of `Ticks`, opened from a spec by `feeds.spec.open_feed`.

What all feeds share, pure:
    ticks       `Ticks` (equal-length columns) and `Symbols` (key to row): what the quote table consumes
    fields      the names that a tick's fields go by
    convert     columns of any type to numbers, times and texts
    decode      records to ticks, and why some cannot be read
    jsonlines   JSON to records
    merge       several recordings as one, by time

What touches the world:
    feed        the `Feed` protocol, its counters, and `FeedError`
    clock       the time of day, or a hand-turned one in tests
    pacing      letting ticks out when they are due; blocking work in a thread
    options     a spec taken apart
    readers     CSV, NDJSON and Parquet files to blocks of records
    replay      recorded files as a feed
    simulated   a made-up market as a feed
    spec        `open_feed`, and the table of schemes

To write a feed, read docs/feeds.md.
"""
