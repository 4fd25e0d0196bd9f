#!/usr/bin/env python3
"""Breaks a cluster of three processes at random, under load, and checks that nothing acknowledged is lost, doubled or reordered.

    docs/bench/faults.py [--binary target/debug/millstream] [--faults 30] [--seed N] [--cuts] [--small-disks]
    docs/bench/faults.py --java --peer DIR ...           Java's producers write too; DIR/libs has the jars of Apache Kafka
    docs/bench/faults.py --peer-cluster --peer DIR ...   three nodes of Apache Kafka are broken instead
    docs/bench/faults.py --self-test                     shows the judge what is wrong, and whether it says so

Faults, each on a node that the seed draws: kill -9, a stop in order, SIGSTOP for up to 12 seconds (longer than a session), kill -9 of
two nodes at once. With --cuts all connections go through proxies in this process, which know who dials, and links between nodes
are broken too: one node is cut from the others, both ways or one way, or all links are slow, each chunk by up to 100 ms of its own.
With --small-disks (as root) each node's data lies on a tmpfs, which is filled to the last byte; the node starts again with
room, after it was killed, was stopped in order or has ended by itself. What was broken is mended before the next fault, but not
always in sync.

Load: producers of librdkafka, and of Java with --java, without deadline. Some (acks=all, idempotent), each with a key of its own,
number their records for each partition. Others write transactions of a few records to several partitions of a second topic,
commit most and abort some. In the end every partition is read from its begin, the second topic as read_committed:

- each idempotent producer's numbers are there once each, in order, up to the last that was acknowledged;
- committed transactions are there whole, once, in order; aborted ones are not there; those of which the producer could not learn how
  they ended (it was fenced while it committed, for example) are there whole or not at all.

It is read again after each of the nodes was stopped, and at last the logs of all replicas are compared byte by byte. Exit code
1 says that something is wrong, and keeps the directories.
"""

import argparse, collections, glob, hashlib, os, random, shutil, signal, subprocess, sys, time

from cluster import PATIENCE_S, Cluster, default_binary
from load import JavaLoad, TransactionalWriter, Writer, judge_records, judge_transactions, read, self_test
from proxy import Proxies

TOPIC, TRANSACTIONS = TOPICS = ("faults", "fault-transactions")
PAUSE_MAX_S = 12
LONG_S = 15
LEFT_MIB = 64


class Disks:
    """A tmpfs for each node's data, so small that it can be filled."""

    def __init__(self, cluster, mib):
        if os.geteuid() != 0:
            sys.exit("--small-disks mounts file systems: it needs root")
        self.nodes, self.mounted = cluster.nodes, []
        for node in self.nodes:
            os.makedirs(node.data)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", node.data], check=True)
            self.mounted.append(node)

    def fill(self, node):
        """Leaves not a byte; gives the file that takes the room."""
        filler = os.path.join(node.data, "filler")
        fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
        try:
            size = 1 << 20
            while size:
                try:
                    os.write(fd, bytes(size))
                except OSError:  # the disk is full for this size
                    size //= 2
        finally:
            os.close(fd)
        return filler

    def check(self):
        """The load itself must not fill them."""
        for node in self.nodes:
            left = shutil.disk_usage(node.data).free >> 20
            if left < LEFT_MIB:
                raise RuntimeError(f"node {node.id}'s disk has {left} MiB left: a run so long needs larger ones (--disk-mib)")

    def unmount(self, keep):
        """Of nodes that do not run. What is to be kept moves to the disk below."""
        for node in self.mounted:
            aside = node.data + ".kept"
            if keep:
                shutil.copytree(node.data, aside)
            subprocess.run(["umount", node.data], check=True)
            if keep:
                os.rmdir(node.data)
                os.rename(aside, node.data)


class Faults:
    def __init__(self, cluster, proxies, disks, random):
        self.cluster, self.proxies, self.disks, self.random = cluster, proxies, disks, random
        self.counts = collections.Counter()
        self.kinds = [self.kill, self.kill, self.stop, self.pause, self.kill_two]
        if proxies:
            self.kinds += [self.cut, self.cut, self.cut_one_way, self.slow]
        if disks:
            self.kinds += [self.fill, self.fill]

    def one(self):
        kind = self.random.choice(self.kinds)
        nodes = self.random.sample(self.cluster.nodes, 2)
        seconds = self.random.uniform(0.2, PAUSE_MAX_S if kind not in (self.kill, self.stop) else 4)
        self.counts[kind.__name__] += 1
        names = {self.kill_two: f" {nodes[0].id} and {nodes[1].id}", self.slow: ""}.get(kind, f" {nodes[0].id}")
        say(f"{sum(self.counts.values()):3}  {kind.__name__}{names} for {seconds:.1f} s")
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
        for node in nodes[:2]:
            node.kill()
        time.sleep(seconds)
        for node in nodes[:2]:
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

    def slow(self, _nodes, seconds):
        for source in self.cluster.nodes:
            for target in self.cluster.nodes:
                if source is not target:
                    self.proxies.slow(source.id, target.id)
        time.sleep(seconds)
        self.proxies.mend()

    def fill(self, nodes, seconds):
        node, killed = nodes[0], self.random.random() < 0.5
        filler = self.disks.fill(node)
        time.sleep(seconds)
        if killed:
            node.signal(signal.SIGKILL)  # before there is room
        os.remove(filler)
        if not killed:
            node.signal(signal.SIGTERM)
        code = node.process.wait(PATIENCE_S)  # a disk that failed under it is no order to end in: any code will do
        if code not in (-signal.SIGKILL, *node.ends_with):
            say(f"     node {node.id} ended with {code}")
        node.start()


class Load:
    """All who write."""

    def __init__(self, cluster, args):
        self.own = [Writer(cluster, TOPIC, key, args.partitions, args.rate) for key in range(args.writers)]
        keys = range(args.writers, args.writers + args.transactional)
        self.own += [TransactionalWriter(cluster, TRANSACTIONS, key, args.partitions) for key in keys]
        self.java = None
        if args.java:
            counts, key = (args.writers, args.transactional), args.writers + args.transactional
            self.java = JavaLoad(cluster, args.peer, TOPICS, args.partitions, counts, args.rate, key)
        for writer in self.own:
            writer.start()
        writers = self.own + (self.java.writers if self.java else [])
        self.records = [writer for writer in writers if hasattr(writer, "acknowledged")]
        self.transactions = [writer for writer in writers if hasattr(writer, "begun")]

    def standing(self, since, patience_s=PATIENCE_S):
        """Who has written nothing since, also after a while of patience."""
        end = time.monotonic() + patience_s
        while True:
            standing = [writer for writer in self.records + self.transactions if writer.last <= since]
            if not standing or time.monotonic() > end:
                return [f"{writer.name} does not go on after the faults" for writer in standing]
            time.sleep(0.1)

    def end(self):
        """What is wrong by the producers' own word."""
        for writer in self.own + ([self.java] if self.java else []):
            writer.begin_end()
        for writer in self.own:
            writer.end()
        wrong = self.java.end() if self.java else []
        return wrong + [failure for writer in self.records + self.transactions for failure in writer.failed]

    def judge(self, cluster, partitions, settled):
        wrong = judge_records(read(cluster, TOPIC, partitions, "read_uncommitted"), self.records)
        return wrong + judge_transactions(read(cluster, TRANSACTIONS, partitions, "read_committed"), self.transactions, settled)

    def summary(self):
        words = []
        for client in ("librdkafka", "java"):
            records = sum(writer.count() for writer in self.records if writer.client == client)
            transactions = [writer for writer in self.transactions if writer.client == client]
            counts = sum((writer.counts() for writer in transactions), collections.Counter())
            ends = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("committed", "aborted", "unknown"))
            if records or counts:
                words.append(f"{client}: {records} records acknowledged, transactions {ends}")
        return "; ".join(words)

    def handled(self):
        return sum((writer.errors for writer in self.transactions), collections.Counter())


def differing(cluster):
    """Replicas whose logs are not the same, byte by byte; of nodes that have stopped."""
    wrong = []
    for place in sorted(os.path.basename(path) for topic in TOPICS for path in glob.glob(f"{cluster.nodes[0].data}/{topic}-*")):
        digests = {}
        for node in cluster.nodes:
            digest, size = hashlib.sha256(), 0
            for segment in sorted(glob.glob(os.path.join(node.data, place, "*.log"))):
                with open(segment, "rb") as file:
                    content = file.read()
                digest.update(content)
                size += len(content)
            digests[node.id] = (digest.hexdigest(), size)
        if len(set(digests.values())) > 1:
            wrong.append(f"{place}: the replicas differ: {digests}")
    return wrong


def say(words):
    print(words, file=sys.stderr, flush=True)


def in_sync(cluster):
    begun = time.monotonic()
    for topic in TOPICS:
        cluster.until_in_sync(topic)
    if (seconds := time.monotonic() - begun) > LONG_S:
        say(f"     in sync after {seconds:.0f} s")


def run(cluster, load, faults, args):
    """Breaks, and gives what is wrong then."""
    for _ in range(args.faults):
        faults.one()
        if faults.random.random() < 0.7:
            in_sync(cluster)
        time.sleep(faults.random.uniform(0.2, 3))
        if faults.disks:
            faults.disks.check()
    in_sync(cluster)
    wrong = load.standing(time.monotonic())
    wrong += load.end()
    settled = {}
    for stopped in [None, *cluster.nodes]:
        if stopped:
            stopped.stop()
        name = stopped.id if stopped else "none"
        wrong += [f"{fault} (node {name} is stopped)" for fault in load.judge(cluster, args.partitions, settled)]
        if stopped:
            stopped.start()
            in_sync(cluster)
    stop_all(cluster)
    return wrong + differing(cluster)


def stop_all(cluster):
    """All at once: the last of them has no quorum to hand over to."""
    for node in cluster.nodes:
        node.signal(signal.SIGTERM)
    for node in cluster.nodes:
        try:
            node.process.wait(10)
        except subprocess.TimeoutExpired:
            node.kill()


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=default_binary())
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--partitions", type=int, default=6, help="of each of the two topics")
    parser.add_argument("--writers", type=int, default=3, help="idempotent producers of each client")
    parser.add_argument("--transactional", type=int, default=2, help="transactional producers of each client")
    parser.add_argument("--rate", type=int, default=300, help="records a second of each idempotent producer")
    parser.add_argument("--java", action="store_true", help="Java's producers too")
    parser.add_argument("--peer", metavar="DIR", help="the folder that has Apache Kafka's jars in libs")
    parser.add_argument("--peer-cluster", action="store_true", help="break Apache Kafka instead")
    parser.add_argument("--cuts", action="store_true", help="cut and slow links between nodes too")
    parser.add_argument("--small-disks", action="store_true", help="fill disks too")
    parser.add_argument("--disk-mib", type=int, default=512)
    parser.add_argument("--keep", action="store_true", help="keep the nodes' directories and logs")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if (args.java or args.peer_cluster) and not args.peer:
        parser.error("--java and --peer-cluster need --peer DIR")
    return args


def main():
    args = parsed()
    if args.self_test:
        sys.exit(self_test())
    seed = args.seed if args.seed is not None else random.randrange(1 << 32)
    say(f"seed {seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order, as disks are mounted and processes run
    if args.peer_cluster:
        from cluster import kafka_cluster

        cluster = kafka_cluster(args.peer)
    else:
        cluster = Cluster(args.binary)
    load = disks = proxies = None
    wrong = ["the run did not end"]
    try:
        proxies = Proxies(cluster) if args.cuts else None
        disks = Disks(cluster, args.disk_mib) if args.small_disks else None
        cluster.start()
        for topic in TOPICS:
            cluster.create(topic, args.partitions)
        if proxies and not any(source and source != target for source, target in proxies.seen):
            raise RuntimeError("the proxies do not recognise the nodes that dial")
        load = Load(cluster, args)
        time.sleep(2)
        faults = Faults(cluster, proxies, disks, random.Random(seed))
        wrong = run(cluster, load, faults, args)
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.counts.items()))
        handled = ", ".join(f"{error} {count}" for error, count in load.handled().most_common())
        say(f"errors that transactional producers handled: {handled or 'none'}")
        print(f"seed {seed}: {sum(faults.counts.values())} faults ({kinds}); {load.summary()}: {len(wrong)} wrong")
        for fault in wrong[:50]:
            print(fault)
    finally:
        if load and load.java:
            load.java.kill()
        for node in cluster.nodes:
            if node.process and node.process.poll() is None:
                node.kill()
        if disks:
            disks.unmount(args.keep or bool(wrong))
        if proxies:
            proxies.close()
        cluster.close(args.keep or bool(wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
