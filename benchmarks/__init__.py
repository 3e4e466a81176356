"""What the service is measured by: `python -m benchmarks` prints a table and writes `benchmarks/out/bench.json`.

    figures.py    what a figure is: its target, its runs, their median; the table and the JSON. Pure
    processes.py  servers and meters as processes of their own, each pinned to a core, each stopped by its id
    serve.py      `ticker serve` with two more kinds of feed: an even load, and ticks stamped as they are handed over
    naive.py      what fan-out is compared with: one `send_json` for each update
    fanlimit.c    what fan-out is measured against: the same bytes, nothing but memcpy and send(2)
    wsmeter.c     the load: connects, subscribes, reads, counts, and times
    fanout.py     fan-out, capacity, memory
    latency.py    from ingest to a client's socket
    rounds.py     the cost of a round, without any socket
    scrape.py     a scrape of the metrics
    access.py     what asking for tokens costs
    rolling.py    a rolling restart of three replicas; a command of its own
    handshakes.py live latency while handshakes come; a command of its own
    page.py       the page, by Chromium's own tracing
    ingest.py     `table.apply`, and unpaced replay into the table

docs/performance.md has the figures and what they mean.
"""
