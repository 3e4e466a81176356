"""Apache Kafka itself for tests: one node under `java`, from its Maven artifacts.

`python -m tests.apache_kafka [--port N]` starts a node, prints its bootstrap address and serves until stopped; where Maven,
Java or the artifacts cannot be had it says so in a line and exits with 3. `--fetch` only sees to the artifacts.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.brokers import REPLY_S_MAX, Local
from tests.proxies import free_port

#: 3.9.2, 4.0.2 and 4.1.1 start in the same way.
VERSION = "4.3.1"
JAVA_MIN = 17
FETCH_S_MAX = 100.0
UNAVAILABLE = 3
#: A node for a test: small, quickly up, and quick to do what others do by the hour.
JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
HASTE = {
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "200",
    "broker.session.timeout.ms": "2000",  # for so long a node that was killed and started again is not let in
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.backoff.ms": "100",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.initial.task.delay.ms": "100",
    "log.retention.check.interval.ms": "100",
    "log.segment.delete.delay.ms": "100",
    "num.io.threads": "2",
    "num.network.threads": "1",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
}
#: Who may come in by SASL, with each mechanism.
USER = "alice"
PASSWORD = "correct-horse"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>ticker</groupId><artifactId>tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


class UnavailableError(Exception):
    """Apache Kafka cannot be started here; the message is one line."""


@dataclass(frozen=True)
class Certificates:
    """PEM files of a certificate authority of the test's own."""

    ca: Path
    client: Path
    client_key: Path


class Apache(Local):
    """One node of Apache Kafka, broker and controller in one; its data outlives `stop` and `kill`, until `close`.

    Where `secure`, it listens at four more addresses: `sasl` (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, for `USER` with
    `PASSWORD`), `ssl`, `sasl_ssl`, and `mutual`, which is TLS that asks for a client's certificate; `certificates` has what
    clients need. Raises UnavailableError where it cannot be started.
    """

    certificates: Certificates

    def __init__(
        self, port: int | None = None, advertised: int | None = None, *, secure: bool = False, version: str = VERSION
    ) -> None:
        self._java = java()
        self._classpath = classpath(version)
        self._controller_port = free_port()
        self._control_port = free_port()
        self._secure_ports = {name: free_port() for name in ("SASL", "SSL", "SASL_SSL", "MUTUAL")} if secure else {}
        super().__init__(port, advertised)

    @property
    def control(self) -> str:
        return f"127.0.0.1:{self._control_port}"

    @property
    def sasl(self) -> str:
        return f"127.0.0.1:{self._secure_ports['SASL']}"

    @property
    def ssl(self) -> str:
        return f"127.0.0.1:{self._secure_ports['SSL']}"

    @property
    def sasl_ssl(self) -> str:
        return f"127.0.0.1:{self._secure_ports['SASL_SSL']}"

    @property
    def mutual(self) -> str:
        return f"127.0.0.1:{self._secure_ports['MUTUAL']}"

    def start(self) -> None:
        first = not (self.folder / "node.properties").exists()
        if first:
            self._format()
        super().start()
        if first and self._secure_ports:
            self._make_users()

    def _command(self) -> list[str]:
        log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return [self._java, *JVM, log, "-cp", self._classpath, "kafka.Kafka", str(self.folder / "node.properties")]

    def _format(self) -> None:
        """What `kafka-storage format` would write, without waiting for one more JVM."""
        settings = HASTE | self._listeners()
        if self._secure_ports:
            self.certificates = _certificates(self.folder)
            settings |= self._security()
        data = self.folder / "data"
        data.mkdir()
        settings |= {"log.dirs": str(data), "node.id": "1", "process.roles": "broker,controller"}
        identity = {"version": "1", "cluster.id": _id(), "node.id": "1", "directory.id": _id()}
        (data / "meta.properties").write_text(_properties(identity))
        (self.folder / "node.properties").write_text(_properties(settings))

    def _listeners(self) -> dict[str, str]:
        protocols = {
            "CLIENTS": "PLAINTEXT",
            "CONTROL": "PLAINTEXT",
            "CONTROLLER": "PLAINTEXT",
            "SASL": "SASL_PLAINTEXT",
            "SSL": "SSL",
            "SASL_SSL": "SASL_SSL",
            "MUTUAL": "SSL",
        }
        ports = {"CLIENTS": self.port, "CONTROL": self._control_port, **self._secure_ports}
        advertised = ports | {"CLIENTS": self.advertised}
        return {
            "listeners": _join(ports | {"CONTROLLER": self._controller_port}),
            "advertised.listeners": _join(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "inter.broker.listener.name": "CONTROL",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
        }

    def _security(self) -> dict[str, str]:
        settings = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificates.ca),
            "listener.name.mutual.ssl.client.auth": "required",
        }
        modules = "org.apache.kafka.common.security"
        for listener in ("sasl", "sasl_ssl"):
            prefix = f"listener.name.{listener}"
            plain = f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            settings[f"{prefix}.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            settings[f"{prefix}.plain.sasl.jaas.config"] = plain
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                settings[f"{prefix}.{mechanism}.sasl.jaas.config"] = f"{modules}.scram.ScramLoginModule required;"
        return settings

    def _make_users(self) -> None:
        admin = self._admin
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            user = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
            admin.alter_user_scram_credentials([user])[USER].result(REPLY_S_MAX)

        def known() -> bool:
            replies = admin.describe_user_scram_credentials()
            assert not isinstance(replies, dict)
            users = replies.result(REPLY_S_MAX)
            return USER in users and len(users[USER].scram_credential_infos) == 2

        self._wait(known)


def java() -> str:
    """The path of a Java that is new enough."""
    found = shutil.which("java")
    if found is None:
        raise UnavailableError("there is no java on the PATH")
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < JAVA_MIN:
        raise UnavailableError(f"Apache Kafka {VERSION} needs Java {JAVA_MIN}: {told.partition(chr(10))[0]}")
    return found


def classpath(version: str = VERSION) -> str:
    """The jar files of Apache Kafka, which Maven resolves once and keeps."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = caches / "ticker" / f"apache-kafka-{version}.classpath"
    if kept.is_file() and all(Path(jar).is_file() for jar in kept.read_text().split(os.pathsep)):
        return kept.read_text()
    found = _resolve(version)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as written:
        written.write(found)
    Path(written.name).replace(kept)
    return found


def _resolve(version: str) -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise UnavailableError("there is no mvn on the PATH")
    with tempfile.TemporaryDirectory(prefix="ticker-maven-") as folder:
        Path(folder, "pom.xml").write_text(POM.format(version=version))
        goal = ["dependency:build-classpath", "-Dmdep.outputFile=classpath", "-Dmdep.includeScope=runtime"]
        try:
            subprocess.run([maven, "-q", "-B", *goal], cwd=folder, timeout=FETCH_S_MAX, check=True, capture_output=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"Maven did not give org.apache.kafka:kafka_2.13:{version}") from error
        return Path(folder, "classpath").read_text().strip()


def _certificates(folder: Path) -> Certificates:
    """Make an authority, the node's certificate (`server.pem`) and a client's."""
    import trustme
    from cryptography.hazmat.primitives import serialization

    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    key = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)  # of a kind that Java cannot read
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(encoded + b"".join(pem.bytes() for pem in server.cert_chain_pems))
    client = authority.issue_cert("client@ticker.test")
    made = Certificates(folder / "ca.pem", folder / "client.pem", folder / "client-key.pem")
    authority.cert_pem.write_to_path(made.ca)
    client.cert_chain_pems[0].write_to_path(made.client)
    client.private_key_pem.write_to_path(made.client_key)
    return made


def _id() -> str:
    """An id as Kafka writes them."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _join(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def _properties(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.apache_kafka", description="Run one node of Apache Kafka.")
    parser.add_argument("--port", type=int, help="where to listen; a free port by default")
    parser.add_argument("--fetch", action="store_true", help="have the artifacts fetched, and start nothing")
    options = parser.parse_args()
    try:
        if options.fetch:
            java()
            classpath()
            return 0
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        with Apache(options.port) as node:
            sys.stdout.write(f"{node.bootstrap}\n")
            sys.stdout.flush()
            stopped.wait()
    except UnavailableError as reason:
        sys.stderr.write(f"no Apache Kafka: {reason}\n")
        return UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
