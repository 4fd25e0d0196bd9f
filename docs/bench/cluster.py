"""Three `millstream broker` processes on this machine, or three of Apache Kafka, and a load of librdkafka producers: for failover.py,
faults.py and throughput.py."""

import base64, os, random, shutil, signal, socket, struct, subprocess, sys, tempfile, time, uuid

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


def free_ports():
    """Ports that nobody listens on and that the kernel gives to nobody who dials: a node that is down must find its own free when it comes
    back."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        dialers = int(file.read().split()[0])
    return filter(is_free, random.SystemRandom().sample(range(10_000, dialers), 1000))


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


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

    ends_with = (0,)

    def __init__(self, cluster, id):
        self.cluster, self.id = cluster, id
        self.data = os.path.join(cluster.folder, f"node-{id}")
        self.log_path = os.path.join(cluster.folder, f"node-{id}.log")
        self.clients, self.controllers = next(cluster.ports), next(cluster.ports)
        self.advertised = (self.clients, self.controllers)
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.advertised[0]}"

    def properties(self):
        """Those that both products know."""
        clients, controllers = self.advertised
        return {
            "node.id": self.id,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.clients},CONTROLLER://127.0.0.1:{self.controllers}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controllers}",
            "controller.listener.names": "CONTROLLER",
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
        }

    def start(self):
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)

    def command(self):
        properties = {
            **self.properties(),
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.cluster.nodes[0].advertised[1]}",
            "controller.quorum.auto.join.enable": "true",
            **self.cluster.properties,
        }
        command = [self.cluster.binary, "broker", "--data", self.data]
        for key, value in properties.items():
            command += ["--set", f"{key}={value}"]
        return command

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
        if code not in self.ends_with:
            raise RuntimeError(f"node {self.id} ended with {code}; see {self.log_path}")

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


class KafkaNode(Node):
    """One of Apache Kafka, broker and controller in one process."""

    ends_with = (0, 128 + signal.SIGTERM)

    def command(self):
        voters = ",".join(f"{node.id}@127.0.0.1:{node.advertised[1]}" for node in self.cluster.nodes)
        properties = {
            **self.properties(),
            "process.roles": "broker,controller",
            "controller.quorum.voters": voters,
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self.data,
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.num.partitions": 8,
            **self.cluster.properties,
        }
        path = os.path.join(self.cluster.folder, f"node-{self.id}.properties")
        with open(path, "w") as file:
            file.writelines(f"{key}={value}\n" for key, value in properties.items())
        if not os.path.exists(os.path.join(self.data, "meta.properties")):
            tool = [*self.java("-Xmx128m"), "kafka.tools.StorageTool", "format", "-t", self.cluster.id, "-c", path]
            subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)
        return [*self.java("-Xmx1g", "-Xms256m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"), "kafka.Kafka", path]

    def java(self, *options):
        log = f"-Dlog4j2.configurationFile={self.cluster.peer_dir}/config/log4j2.properties"
        return ["java", *options, "-Djava.awt.headless=true", "-Dpeer.log=WARN", log, "-cp", f"{self.cluster.peer_dir}/libs/*"]


class Cluster:
    node_kind = Node

    def __init__(self, binary, size=3, properties=None, folder=None):
        self.binary, self.properties = os.path.abspath(binary), properties or {}
        if not os.path.exists(self.binary):
            sys.exit(f"there is no {self.binary}: run `cargo build --release -p millstream`, or name another with --binary")
        if folder:
            os.makedirs(folder)
        self.folder = folder or tempfile.mkdtemp(prefix="millstream-cluster-")
        self.ports = free_ports()
        self.nodes = [self.node_kind(self, id) for id in range(1, size + 1)]

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


class KafkaCluster(Cluster):
    """The peer; `peer_dir` has its jars in `libs`."""

    node_kind = KafkaNode

    def __init__(self, peer_dir, **options):
        self.peer_dir = os.path.abspath(peer_dir)
        jars = os.path.join(self.peer_dir, "libs")
        if not os.path.isdir(jars):
            sys.exit(f"there is no {jars}: --peer names the folder that has the jars of Apache Kafka in libs")
        self.id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        super().__init__(jars, **options)


def kafka_cluster(peer_dir, properties=None, folder=None):
    return KafkaCluster(peer_dir, properties=properties, folder=folder)


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
