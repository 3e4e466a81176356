"""Kafka as a feed, and as where recordings go: every replica reads every partition, in no group, and commits nothing.

setup       what an operator sets for every Kafka feed: how to connect, how far back to read
address     ``kafka://host:port/topic?start=...`` taken apart
cluster     the topics as the cluster has them, by asking it; what names their log
partitions  where reading begins, where it is, and when it has caught up; pure
merging     the partitions' records in the order of the log's own times; pure
records     records to ticks: values decoded, keys owned by partitions, what cannot be read said; pure but for the log
feed        the feed: connects, reads, comes back
producer    ticks into a topic
"""
