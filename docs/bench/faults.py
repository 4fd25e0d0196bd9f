#!/usr/bin/env python3
"""Breaks a cluster of three processes at random, under load, and checks that nothing acknowledged is lost, doubled or reordered.

    docs/bench/faults.py [--binary target/debug/millstream] [--faults 30] [--seed N] [--cuts]

Faults, each on a node that the seed draws: kill -9, a stop in order, SIGSTOP for up to 12 seconds (longer than a session), kill -9 of
two nodes at once. With --cuts all connections go through proxies in this process, which know who dials, and links between nodes
are cut too: one node from the others, both ways or one way. What was broken is mended before the next fault, but not always in sync.

Load: librdkafka producers (acks=all, idempotent, no deadline), each with a key of its own, number their records for each partition. In
the end every partition is read from its begin: each producer's numbers must be there once each, in order, up to the last that was
acknowledged. It is read again after each of the nodes was stopped, so that every replica is read. Exit code 1 says that something
is wrong, and keeps the directories.
"""

import argparse, collections, random, signal, sys, threading, time

from confluent_kafka import Consumer, TopicPartition

from cluster import Cluster, Load, default_binary, until
from proxy import Proxies

TOPIC = "faults"
PAUSE_MAX_S = 12


class Writer(threading.Thread):
    """One producer: it numbers its records for each partition."""

    def __init__(self, cluster, key, partitions, rate):
        super().__init__(daemon=True)
        self.key, self.partitions, self.rate = key, partitions, rate
        self.sent = collections.Counter()
        self.acknowledged = collections.defaultdict(list)
        self.failed = []
        self.ending = threading.Event()
        self.last = time.monotonic()
        client = {"message.timeout.ms": 0, "client.id": f"writer-{key}"}
        self.load = Load(cluster.bootstrap, TOPIC, self.answered, client)

    def answered(self, partition, number, _sent_at, error):
        if error:
            self.failed.append(f"writer {self.key}, partition {partition}, number {number}: {error}")
        else:
            self.acknowledged[partition].append(number)
            self.last = time.monotonic()

    def run(self):
        turn = 0
        while not self.ending.is_set():
            if sum(self.sent.values()) - sum(map(len, self.acknowledged.values())) < 20_000:
                partition = turn % self.partitions
                number = self.sent[partition]
                self.sent[partition] += 1
                self.load.send(partition, number, b"%d" % self.key, b"%d %d" % (self.key, number))
                turn += 1
            self.load.poll(1 / self.rate)

    def end(self):
        self.ending.set()
        self.join()
        self.load.flush()


def read(cluster, partitions):
    """What each partition has, from its begin to its end: the numbers of each writer in the order of the log."""
    consumer = Consumer(
        {"bootstrap.servers": cluster.bootstrap, "group.id": "check", "enable.auto.commit": False, "log_level": 0}
    )
    found = {}
    try:
        for partition in range(partitions):
            at = TopicPartition(TOPIC, partition, 0)
            _, end = until("the end is known", lambda: watermarks(consumer, at))
            numbers = collections.defaultdict(list)
            consumer.assign([at])
            position, patience = 0, time.monotonic() + 120
            while position < end:
                if time.monotonic() > patience:
                    raise TimeoutError(f"partition {partition} is read up to {position} of {end} only")
                for message in consumer.consume(1000, 1.0):
                    if not message.error():
                        key, number = message.value().split()
                        numbers[int(key)].append(int(number))
                        position = message.offset() + 1
            found[partition] = numbers
    finally:
        consumer.close()
    return found


def watermarks(consumer, at):
    try:
        return consumer.get_watermark_offsets(at, timeout=5)
    except Exception:  # librdkafka's own class, for every reason alike
        return None


def judge(found, writers):
    """What is wrong with what was read, in words."""
    wrong = []
    for writer in writers:
        for partition, acknowledged in sorted(writer.acknowledged.items()):
            numbers = found[partition][writer.key]
            where = f"writer {writer.key}, partition {partition}"
            lost = sorted(set(acknowledged) - set(numbers))
            doubled = [number for number, count in collections.Counter(numbers).items() if count > 1]
            if lost:
                wrong.append(f"{where}: {len(lost)} acknowledged records are lost, first {lost[:5]}")
            if doubled:
                wrong.append(f"{where}: {len(doubled)} records are there more than once, first {doubled[:5]}")
            if not doubled and numbers != sorted(numbers):
                wrong.append(f"{where}: the order is another than that of sending")
    return wrong


class Faults:
    def __init__(self, cluster, proxies, random):
        self.cluster, self.proxies, self.random = cluster, proxies, random
        self.counts = collections.Counter()
        self.kinds = [self.kill, self.kill, self.stop, self.pause, self.kill_two]
        if proxies:
            self.kinds += [self.cut, self.cut, self.cut_one_way]

    def one(self):
        kind = self.random.choice(self.kinds)
        nodes = self.random.sample(self.cluster.nodes, 2)
        seconds = self.random.uniform(0.2, PAUSE_MAX_S if kind not in (self.kill, self.stop) else 4)
        self.counts[kind.__name__] += 1
        names = f"{nodes[0].id}" + (f" and {nodes[1].id}" if kind == self.kill_two else "")
        print(f"{sum(self.counts.values()):3}  {kind.__name__} {names} for {seconds:.1f} s", file=sys.stderr, flush=True)
        kind(nodes, seconds)

    def kill(self, nodes, seconds):
        nodes[0].kill()
        time.sleep(seconds)
        nodes[0].start()

    def stop(self, nodes, seconds):
        nodes[0].stop()
        time.sleep(seconds)
        nodes[0].start()

    def kill_two(self, nodes, seconds):
        for node in nodes:
            node.kill()
        time.sleep(seconds)
        for node in nodes:
            node.start()

    def pause(self, nodes, seconds):
        nodes[0].signal(signal.SIGSTOP)
        time.sleep(seconds)
        nodes[0].signal(signal.SIGCONT)

    def cut(self, nodes, seconds):
        self.between(nodes[0], seconds, ways=2)

    def cut_one_way(self, nodes, seconds):
        self.between(nodes[0], seconds, ways=1)

    def between(self, node, seconds, ways):
        for other in self.cluster.nodes:
            if other is not node:
                self.proxies.cut(node.id, other.id)
                if ways == 2:
                    self.proxies.cut(other.id, node.id)
        time.sleep(seconds)
        self.proxies.mend()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=default_binary())
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--rate", type=int, default=300, help="records a second of each writer")
    parser.add_argument("--cuts", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' directories and logs")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", file=sys.stderr)
    cluster = Cluster(args.binary)
    proxies = Proxies(cluster) if args.cuts else None
    wrong = ["the run did not end"]
    try:
        cluster.start()
        cluster.create(TOPIC, args.partitions)
        writers = [Writer(cluster, key, args.partitions, args.rate) for key in range(args.writers)]
        for writer in writers:
            writer.start()
        time.sleep(2)
        faults = Faults(cluster, proxies, random.Random(seed))
        for _ in range(args.faults):
            faults.one()
            if faults.random.random() < 0.7:
                cluster.until_in_sync(TOPIC)
            time.sleep(faults.random.uniform(0.2, 3))
        cluster.until_in_sync(TOPIC)
        healed = time.monotonic()
        until("writers go on", lambda: all(writer.last > healed for writer in writers))
        for writer in writers:
            writer.end()
        wrong = [failure for writer in writers for failure in writer.failed]
        for stopped in [None, *cluster.nodes]:
            if stopped:
                stopped.stop()
            found = read(cluster, args.partitions)
            wrong += [f"{fault} (node {stopped.id if stopped else 'none'} is stopped)" for fault in judge(found, writers)]
            if stopped:
                stopped.start()
                cluster.until_in_sync(TOPIC)
        records = sum(len(numbers) for writer in writers for numbers in writer.acknowledged.values())
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.counts.items()))
        print(f"seed {seed}: {sum(faults.counts.values())} faults ({kinds}), {records} records acknowledged: {len(wrong)} wrong")
        print("\n".join(wrong[:50]))
    finally:
        cluster.close(args.keep or bool(wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
