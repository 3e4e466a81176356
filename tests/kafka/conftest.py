"""Brokers for the tests of Kafka: Tansu by default, Apache Kafka where `TICKER_TEST_BROKER=apache`, or a cluster by its address.

`broker` and `apache` are shared by all tests, and each makes topics of its own; what a test means to harm is `own_broker`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.apache_kafka import Apache, UnavailableError
from tests.brokers import Broker, Local, MakeTopic, Tansu, topics
from tests.proxies import Proxy, free_port

EXTERNAL = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
OWN = {"": Tansu, "tansu": Tansu, "apache": Apache}[os.environ.get("TICKER_TEST_BROKER", "")]


@pytest.fixture(scope="session")
def apache() -> Iterator[Apache]:
    """Apache Kafka with all its listeners, for what Tansu cannot do."""
    try:
        node = Apache(secure=True)
    except UnavailableError as reason:
        if OWN is Apache:
            raise
        pytest.skip(f"no Apache Kafka: {reason}")
    with node:
        yield node


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """The cluster that most tests talk to."""
    if EXTERNAL:
        yield Broker(EXTERNAL)
    elif OWN is Apache:
        yield request.getfixturevalue("apache")
    else:
        with Tansu() as started:
            yield started


@pytest.fixture
def topic(broker: Broker) -> Iterator[MakeTopic]:
    """Makes topics on `broker`: `name = topic(3, cleanup_policy="compact")`."""
    with topics(broker) as make:
        yield make


@pytest.fixture
def apache_topic(apache: Apache) -> Iterator[MakeTopic]:
    """Makes topics on `apache`."""
    with topics(apache) as make:
        yield make


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """What stands between `own_broker` and its clients."""
    with Proxy(free_port()) as made:
        yield made


@pytest.fixture
def own_broker(proxy: Proxy) -> Iterator[Local]:
    """A broker of this test's own behind `proxy`, to be stopped, frozen and cut off."""
    with OWN(port=proxy.upstream_port, advertised=proxy.port) as started:
        yield started
