#!/usr/bin/env python3
"""Measures how long writers stand still when a node of three is killed, stops in order, or all are restarted one by one.

    docs/bench/failover.py [--binary target/release/millstream] [--partitions 10] [--turns 50] [--controller]
    docs/bench/failover.py --handover ...     a node stops in order instead
    docs/bench/failover.py --rolling ...      each turn restarts all three nodes in order, one after the other
    docs/bench/failover.py --peer DIR ...     three nodes of Apache Kafka instead, whose jars are in DIR/libs
    docs/bench/failover.py --java DIR ...     a node stops in order, and Kafka's own producer writes, whose jars are in DIR/libs
    docs/bench/failover.py --idle 20 ...      nobody writes: the CPU of each node over so many seconds

Three processes on loopback addresses, replication factor 3, min.insync.replicas 2, otherwise defaults. One librdkafka producer
(acks=all, idempotent) writes all the time: to ten partitions, the first ones, `--rate` records a second together, and to the others
`--others` together. A turn waits until all replicas are in sync, kills the leader of partition 0 (with --controller only when it is the active
controller too) and looks at the partitions among the ten that it led:

- next write: from the kill to the first acknowledgement of a record that was sent after it, in the first of those partitions;
- all writes: the same, until each of them has one;
- pause: the longest time that any record of the ten waited for its acknowledgement;
- settling: the same from a second after the first writes of the turn before until all replicas are in sync again;
- calm: the same over the second before the kill, when nothing had happened: what the machine itself costs.

A record that was sent before such a time waits from its beginning.

A record whose delivery fails for good is an error, and ends the run with exit code 1.
"""

import argparse, queue, re, subprocess, sys, threading, time

from cluster import Cluster, Load, default_binary, kafka_cluster, quantile

TOPIC = "failover"
WATCHED = 10


class Flow:
    """Records for some partitions in turn, at a rate."""

    def __init__(self, partitions, rate):
        self.partitions, self.every = partitions, 1 / rate
        self.number, self.next_at = 0, time.monotonic()

    def due(self, now):
        self.next_at = max(self.next_at, now - 0.1)  # what a stall held up is not made up for
        while self.next_at <= now:
            yield self.partitions[self.number % len(self.partitions)], self.number
            self.number += 1
            self.next_at += self.every


class Writers:
    """The load, and what was acknowledged when."""

    def __init__(self, cluster, partitions, rates, client):
        self.partitions = partitions
        self.load = Load(cluster.bootstrap, TOPIC, self.answered, client)
        self.watched = min(WATCHED, partitions)
        self.flows = [Flow(range(self.watched), rates[0])]
        if partitions > self.watched:
            self.flows.append(Flow(range(self.watched, partitions), rates[1]))
        self.acknowledged, self.failed = 0, []
        self.begin(time.monotonic())

    def begin(self, at):
        """From here on another turn is looked at."""
        self.since, self.first, self.longest = at, {}, 0.0

    def answered(self, partition, number, sent_at, error):
        now = time.monotonic()
        if error:
            self.failed.append(f"partition {partition}, record {number}: {error}")
            return
        self.acknowledged += 1
        if partition < self.watched:
            if sent_at >= self.since:
                self.first.setdefault(partition, now)
            if now >= self.since:
                self.longest = max(self.longest, now - max(sent_at, self.since))

    def run(self, seconds=0.0, until=None):
        """Writes for so long, or until something holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end if until is None else not until():
            if self.failed:
                sys.exit("a record was not delivered: " + self.failed[0])
            now = time.monotonic()
            for flow in self.flows:
                for partition, number in flow.due(now):
                    self.load.send(partition, number)
            self.load.poll(0.001)


def in_background(work):
    """Runs `work` in a thread; gives a function that tells whether it is done."""
    failure = []

    def run():
        try:
            work()
        except BaseException as error:  # told in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def done():
        if failure:
            raise failure[0]
        return not thread.is_alive()

    return done


class Turns:
    def __init__(self, cluster, writers, args):
        self.cluster, self.writers, self.args = cluster, writers, args
        self.rows = []

    def victim(self):
        """Who leads partition 0; where it must be the active controller too, another partition counts."""
        leaders = self.cluster.leaders(TOPIC)
        id = leaders[0]
        if self.args.controller:
            id = self.cluster.controller()
        led = [p for p in range(self.writers.watched) if leaders[p] == id]
        return self.cluster.node(id), led

    def ready(self):
        """The longest wait until all are in sync, and that over a while after it."""
        self.writers.begin(time.monotonic())
        self.writers.run(until=in_background(lambda: self.cluster.until_in_sync(TOPIC)))
        settling = self.writers.longest
        self.writers.begin(time.monotonic())
        self.writers.run(self.args.between)
        return settling, self.writers.longest

    def one(self):
        settling, calm = self.ready()
        node, led = self.victim()
        if not led:
            return self.restart(node)  # it leads again what others do not; the next turn has another
        began = time.monotonic()
        self.writers.begin(began)
        if self.args.handover:
            self.writers.run(until=in_background(node.stop))
        else:
            node.kill()
        self.writers.run(until=lambda: all(p in self.writers.first for p in led) or time.monotonic() > began + 60)
        self.writers.run(1.0)
        times = sorted(self.writers.first.get(p, began + 60) - began for p in led)
        kill = {} if self.args.handover else {"next": times[0], "all": times[-1]}
        self.row(**kill, pause=self.writers.longest, settling=settling, calm=calm, led=len(led), node=node.id)
        node.start()
        return None

    def rolling(self):
        for node in self.cluster.nodes:
            _, calm = self.ready()
            self.writers.begin(time.monotonic())
            self.writers.run(until=in_background(node.stop))
            self.writers.run(0.5)
            node.start()
            self.writers.run(until=in_background(lambda: self.cluster.until_in_sync(TOPIC)))
            self.row(pause=self.writers.longest, calm=calm, node=node.id)

    def restart(self, node):
        self.writers.run(until=in_background(node.stop))
        node.start()

    def row(self, **row):
        self.rows.append(row)
        shown = "  ".join(f"{k} {v * 1e3:.0f} ms" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(f"{len(self.rows):3}  {shown}", file=sys.stderr, flush=True)

    def table(self):
        print("| what | turns | p50 ms | p99 ms | most ms |\n| --- | ---: | ---: | ---: | ---: |")
        names = {"next": "next write", "all": "all writes", "pause": "pause", "settling": "settling", "calm": "calm"}
        for key, name in names.items():
            values = [row[key] * 1e3 for row in self.rows if key in row]
            if values:
                print(f"| {name} | {len(values)} | {quantile(values, 0.5):.0f} | {quantile(values, 0.99):.0f} | {max(values):.0f} |")


class JavaProducer:
    """Kafka's ProducerPerformance, which says every second how long its slowest record took."""

    def __init__(self, cluster, jars, rate):
        command = ["java", "-Xmx512m", f"-Dlog4j2.configurationFile={jars}/config/log4j2.properties", "-Dpeer.log=ERROR",
                   "-cp", f"{jars}/libs/*", "org.apache.kafka.tools.ProducerPerformance", "--bootstrap-server", cluster.bootstrap,
                   "--topic", TOPIC, "--num-records", "1000000000", "--record-size", "100", "--throughput", str(rate),
                   "--reporting-interval", "1000", "--command-property", "acks=all", "linger.ms=0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout], daemon=True).start()

    def slowest(self, seconds):
        """The longest wait in ms over so many seconds."""
        while not self.lines.empty():
            self.lines.get()
        waits = []
        while len(waits) < seconds:
            line = self.lines.get(timeout=60)
            found = re.search(r"([\d.]+) ms max latency", line)
            if not found:
                sys.exit(f"the producer says: {line.strip()}")
            waits.append(float(found[1]))
        return max(waits)


def java_handover(cluster, args):
    """Each turn stops the leader of partition 0 in order while Kafka's own producer writes."""
    producer = JavaProducer(cluster, args.java, args.rate)
    waits, calm = [], []
    try:
        producer.slowest(10)
        for turn in range(args.turns):
            cluster.until_in_sync(TOPIC)
            calm.append(producer.slowest(2))
            node = cluster.node(cluster.leaders(TOPIC)[0])
            stopped = in_background(node.stop)
            waits.append(producer.slowest(3))
            while not stopped():
                time.sleep(0.05)
            print(f"{turn + 1:3}  longest wait {waits[-1]:.0f} ms  calm {calm[-1]:.0f} ms  node {node.id}", file=sys.stderr, flush=True)
            node.start()
    finally:
        producer.process.kill()
    print("| what | turns | p50 ms | p99 ms | most ms |\n| --- | ---: | ---: | ---: | ---: |")
    for name, values in (("longest wait", waits), ("calm", calm)):
        print(f"| {name} | {len(values)} | {quantile(values, 0.5):.0f} | {quantile(values, 0.99):.0f} | {max(values):.0f} |")


def idle(cluster, seconds):
    """Prints what each node's process takes while nobody asks for anything."""
    time.sleep(5)
    before = {node.id: node.cpu_seconds() for node in cluster.nodes}
    time.sleep(seconds)
    print("| node | CPU of a core, idle |\n| --- | ---: |")
    for node in cluster.nodes:
        print(f"| {node.id} | {(node.cpu_seconds() - before[node.id]) / seconds:.2%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=default_binary())
    parser.add_argument("--peer", metavar="DIR", help="measure Apache Kafka instead, whose jars are in DIR/libs")
    parser.add_argument("--partitions", type=int, default=10)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--others", type=int, default=100)
    parser.add_argument("--between", type=float, default=1.0, help="seconds between all in sync and the next fault")
    parser.add_argument("--controller", action="store_true")
    parser.add_argument("--handover", action="store_true")
    parser.add_argument("--rolling", action="store_true")
    parser.add_argument("--java", metavar="DIR", help="a node stops in order while Kafka's own producer writes, whose jars are in DIR/libs")
    parser.add_argument("--idle", type=float, metavar="SECONDS")
    parser.add_argument("--client", action="append", default=[], metavar="KEY=VALUE", help="a property of librdkafka")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a property of the nodes")
    parser.add_argument("--folder", help="where the nodes' directories are made; a temporary one otherwise")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' directories and logs")
    args = parser.parse_args()
    properties = lambda pairs: dict(pair.split("=", 1) for pair in pairs)
    if args.peer:
        cluster = kafka_cluster(args.peer, properties(args.set), args.folder)
    else:
        cluster = Cluster(args.binary, properties=properties(args.set), folder=args.folder)
    failed = []
    try:
        cluster.start()
        cluster.create(TOPIC, args.partitions)
        if args.idle:
            idle(cluster, args.idle)
            return 0
        if args.java:
            java_handover(cluster, args)
            return 0
        writers = Writers(cluster, args.partitions, (args.rate, args.others), properties(args.client))
        failed = writers.failed
        turns = Turns(cluster, writers, args)
        writers.run(2.0)
        while len(turns.rows) < args.turns * (3 if args.rolling else 1):
            turns.rolling() if args.rolling else turns.one()
        writers.load.flush()
        print(f"{writers.acknowledged} records acknowledged, {len(writers.failed)} failed", file=sys.stderr)
        turns.table()
    finally:
        cluster.close(args.keep)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
