"""Kafka as a feed, and as where recordings go: every replica reads every partition, in no group, and commits nothing.

setup       what an operator sets for every Kafka feed: how to connect, how far back to read
address     ``kafka://host:port/topic?start=...`` taken apart
cluster     the topics as the cluster has them, by asking it; what names their log
partitions  where reading of each begins and how far it is; where a key is at home
merging     records as blocks, and blocks of several partitions in the order of the log's own times; pure
holding     records that are not due yet, of a late feed; pure
records     records to ticks: values decoded, keys owned by partitions, what cannot be read said
consumer    the client library's consumer, made and stopped, and its records as blocks
outage      what stands in the way, when that is said, and how long to wait before the next attempt
feed        the feed: connects, reads, comes back
producer    ticks into a topic
"""
