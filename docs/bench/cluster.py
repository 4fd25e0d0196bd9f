"""Three `millstream broker` processes on this machine, and a load of librdkafka producers: for failover.py and faults.py."""

import os, shutil, signal, socket, struct, subprocess, sys, tempfile, time

try:
    from confluent_kafka import KafkaError, KafkaException, Producer
    from confluent_kafka.admin import AdminClient, NewTopic
except ImportError:
    sys.exit("install confluent-kafka: python3 -m venv target/venv && target/venv/bin/pip install confluent-kafka==2.16.1")

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
PATIENCE_S = 120
TICK = os.sysconf("SC_CLK_TCK")


def default_binary():
    for profile in ("release", "debug"):
        binary = os.path.join(ROOT, "target", profile, "millstream")
        if os.path.exists(binary):
            return binary
    return os.path.join(ROOT, "target/debug/millstream")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, holds, patience_s=PATIENCE_S, look_s=0.05):
    """Waits until `holds()` gives something true, and gives that."""
    end = time.monotonic() + patience_s
    while True:
        held = holds()
        if held:
            return held
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience_s} s")
        time.sleep(look_s)


class Node:
    """A node's place: its directory and addresses stay, its processes come and go. `clients` and `controllers` are the ports that
    it listens on; `advertised` are those that others are told, where something stands between."""

    def __init__(self, cluster, id):
        self.cluster, self.id = cluster, id
        self.data = os.path.join(cluster.folder, f"node-{id}")
        self.log_path = os.path.join(cluster.folder, f"node-{id}.log")
        self.clients, self.controllers = free_port(), free_port()
        self.advertised = (self.clients, self.controllers)
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.advertised[0]}"

    def start(self):
        founder = self.cluster.nodes[0]
        clients, controllers = self.advertised
        properties = {
            "node.id": self.id,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.clients},CONTROLLER://127.0.0.1:{self.controllers}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controllers}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{founder.advertised[1]}",
            "controller.quorum.auto.join.enable": "true",
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            **self.cluster.properties,
        }
        command = [self.cluster.binary, "broker", "--data", self.data]
        for key, value in properties.items():
            command += ["--set", f"{key}={value}"]
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """As the kernel does it when memory is short: no goodbye."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """In order; an exit code other than 0 is an error."""
        self.signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        if code != 0:
            raise RuntimeError(f"node {self.id} ended with {code}; see {self.log_path}")

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


class Cluster:
    def __init__(self, binary, size=3, properties=None, folder=None):
        self.binary, self.properties = os.path.abspath(binary), properties or {}
        if not os.path.exists(self.binary):
            sys.exit(f"there is no {self.binary}: run `cargo build --release -p millstream`, or name another with --binary")
        if folder:
            os.makedirs(folder)
        self.folder = folder or tempfile.mkdtemp(prefix="millstream-cluster-")
        self.nodes = [Node(self, id) for id in range(1, size + 1)]

    def node(self, id):
        return next(node for node in self.nodes if node.id == id)

    def start(self):
        for node in self.nodes:
            node.start()
        until("all brokers serve", lambda: len(self.metadata().brokers) == len(self.nodes))

    def close(self, keep=False):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.signal(signal.SIGCONT)
                node.kill()
        if keep:
            print(f"kept: {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder)

    @property
    def bootstrap(self):
        return ",".join(node.address for node in self.nodes)

    def metadata(self, topic=None, node=None):
        """As one node that runs has it; empty while it has none."""
        try:
            admin = AdminClient({"bootstrap.servers": node.address if node else self.bootstrap, "log_level": 0})
            return admin.list_topics(topic, timeout=5)
        except Exception:  # librdkafka's own class, for every reason alike
            return Nothing()

    def create(self, topic, partitions, config=None):
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        new = NewTopic(topic, partitions, 3, config=config or {})
        try:
            admin.create_topics([new], operation_timeout=60, request_timeout=60)[topic].result(90)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # as a request that was sent twice says
                raise
        self.until_in_sync(topic)

    def until_in_sync(self, topic, replicas=3, patience_s=PATIENCE_S):
        """By the word of every node that runs: one that has just begun may still know what was."""

        def in_sync(node):
            found = self.metadata(topic, node).topics.get(topic)
            partitions = found.partitions.values() if found else ()
            return partitions and all(p.leader > 0 and len(p.isrs) >= replicas for p in partitions)

        running = [node for node in self.nodes if node.process.poll() is None]
        until(f"{topic} is in sync", lambda: all(in_sync(node) for node in running), patience_s, 0.1)

    def leaders(self, topic):
        """Who leads each partition."""
        found = until("leaders are known", lambda: self.metadata(topic).topics.get(topic))
        return {p.id: p.leader for p in found.partitions.values()}

    def controller(self):
        """The active controller's id, by the word of the first node that knows."""
        def ask():
            for node in self.nodes:
                if node.process.poll() is None and (known := active_controller(node.controllers)) > 0:
                    return known

        return until("there is an active controller", ask)


class Nothing:
    brokers, topics = {}, {}


def active_controller(port):
    """Asks a controller's listener by DescribeCluster 1; -1 where nobody answers."""
    body = struct.pack(">hhih", 60, 1, 1, -1) + b"\0" + struct.pack(">?bB", False, 2, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as link:
            link.settimeout(1)
            link.sendall(struct.pack(">i", len(body)) + body)
            answer = b""
            while len(answer) < 4 or len(answer) < 4 + struct.unpack(">i", answer[:4])[0]:
                more = link.recv(4096)
                if not more:
                    return -1
                answer += more
    except OSError:
        return -1
    at = 4 + 4 + 1 + 4 + 2  # size, correlation id, tags, throttle time, error code
    for skip in (0, 1):  # the error message, and behind the kind of endpoint the cluster's id
        at += skip
        length = answer[at]
        at += 1 + max(length - 1, 0)
    return struct.unpack(">i", answer[at : at + 4])[0]


class Load:
    """One idempotent producer with acks=all. Every record that it is given is answered once, in `on_answer(partition, number,
    sent_at, error)`."""

    def __init__(self, bootstrap, topic, on_answer, client=None):
        self.topic, self.on_answer = topic, on_answer
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 1,
                "message.timeout.ms": 120_000,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
                **(client or {}),
            }
        )

    def send(self, partition, number, key=None, value=None):
        sent_at = time.monotonic()

        def answered(error, _message):
            self.on_answer(partition, number, sent_at, error)

        value = value if value is not None else b"%d" % number
        self.producer.produce(self.topic, value, key, partition, on_delivery=answered)

    def poll(self, seconds=0):
        self.producer.poll(seconds)

    def flush(self, seconds=PATIENCE_S):
        left = self.producer.flush(seconds)
        if left:
            raise TimeoutError(f"{left} records have no answer after {seconds} s")


def quantile(values, q):
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1))]
