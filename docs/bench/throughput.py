#!/usr/bin/env python3
"""Measures three nodes of `millstream broker` and three of Apache Kafka in turn: replication factor 3, min.insync.replicas 2, acks=all.

    target/venv/bin/python docs/bench/throughput.py --peer DIR [--turns 3] [--records 300000] [--partitions 1 6]

DIR has Apache Kafka's jars in `libs`. Each run writes records of 1 KiB to a new topic: as fast as they are acknowledged (linger 5 ms), and
1,000 a second (linger 0; of Kafka's tool the last two thirds count, since it takes a while to start). All is synced before each run. Ours fsyncs on the in-sync set before it answers, the peer does not (its default). CPU seconds are user + system of the
brokers' processes; with one partition the leader's and the followers' apart. Prints a JSON line for each run, and a table of medians with
ratios at the end: above 1 ours is better.
"""

import argparse, json, os, re, statistics, subprocess, sys, time

from cluster import Cluster, default_binary, kafka_cluster

SIZE = 1024
DURABLE = {"min.insync.replicas": "2"}


class Bench:
    def __init__(self, args):
        self.args, self.number, self.figures = args, 0, []

    def java(self, cluster, topic, records, rate, linger_ms):
        """Kafka's own tool; gives MB a second, p50 and p99 in ms."""
        command = ["java", "-Xmx512m", f"-Dlog4j2.configurationFile={self.args.peer}/config/log4j2.properties", "-Dpeer.log=ERROR",
                   "-cp", f"{self.args.peer}/libs/*", "org.apache.kafka.tools.ProducerPerformance",
                   "--bootstrap-server", cluster.bootstrap, "--topic", topic, "--num-records", str(records), "--record-size", str(SIZE),
                   "--throughput", str(rate), "--command-property", "acks=all", f"linger.ms={linger_ms}"]
        if rate > 0:  # what the tool itself takes to start is no latency of a broker
            command += ["--warmup-records", str(records // 3)]
        last = run(command).strip().splitlines()[-1]
        of = lambda pattern: float(re.search(pattern, last)[1])
        return of(r"\(([\d.]+) MB/sec\)") * 1.048576, of(r"([\d.]+) ms 50th"), of(r"([\d.]+) ms 99th")

    def ours(self, cluster, topic, records, rate, linger_ms):
        """`millstream bench`; the same figures."""
        common = ["--json", "-b", cluster.nodes[0].address, "--topic", topic, "--size", str(SIZE), "--acks", "all",
                  "--linger-ms", str(linger_ms)]
        what = ["produce", "-n", str(records)] if rate < 0 else ["latency", "--rate", str(rate), "--seconds", str(records // rate)]
        began = time.monotonic()
        told = json.loads(run([self.args.binary, "bench", *what, *common]))
        return records * SIZE / 1e6 / (time.monotonic() - began), told.get("p50_ms"), told.get("p99_ms")

    def measure(self, name, cluster, client, partitions, what):
        self.number += 1
        topic = f"bench-{self.number}"
        cluster.create(topic, partitions, DURABLE)
        rate, linger_ms = (-1, 5) if what == "produce" else (self.args.rate, 0)
        records = self.args.records if rate < 0 else self.args.rate * self.args.seconds
        leader = cluster.leaders(topic)[0]
        os.sync()  # what the peer has not synced is written now, and not while somebody waits for a sync of his own
        before = {node.id: node.cpu_seconds() for node in cluster.nodes}
        mb_per_second, p50_ms, p99_ms = getattr(self, client)(cluster, topic, records, rate, linger_ms)
        used = {node.id: node.cpu_seconds() - before[node.id] for node in cluster.nodes}
        gb = records * SIZE / 1e9
        row = {"what": what, "partitions": partitions, "client": client, "cluster": name, "mb_per_second": mb_per_second,
               "p50_ms": p50_ms, "p99_ms": p99_ms, "cpu_seconds_per_gb": sum(used.values()) / gb}
        if partitions == 1:
            row["leader_cpu_seconds_per_gb"] = used[leader] / gb
            row["follower_cpu_seconds_per_gb"] = sum(s for id, s in used.items() if id != leader) / 2 / gb
        row = {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items() if value is not None}
        self.figures.append(row)
        print(json.dumps(row), flush=True)

    def table(self):
        """The medians of each figure side by side, and their ratio."""
        kinds = list(dict.fromkeys((row["what"], row["partitions"], row["client"]) for row in self.figures))
        print("\n| what | partitions | client | figure | ours | peer | ratio |\n| --- | ---: | --- | --- | ---: | ---: | ---: |")
        for what, partitions, client in kinds:
            rows = [row for row in self.figures if (row["what"], row["partitions"], row["client"]) == (what, partitions, client)]
            for figure in dict.fromkeys(key for row in rows for key in row if key.endswith(("_ms", "_gb", "_second"))):
                ours, peer = ([row[figure] for row in rows if row["cluster"] == name and figure in row] for name in ("ours", "peer"))
                if not ours or not peer or (what != "produce" and figure == "mb_per_second"):
                    continue
                ours, peer = statistics.median(ours), statistics.median(peer)
                better = (ours, peer) if figure == "mb_per_second" else (peer, ours)
                ratio = f"{better[0] / better[1]:.2f}x" if better[1] else "-"
                print(f"| {what} | {partitions} | {client} | {figure} | {ours:g} | {peer:g} | {ratio} |")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=default_binary())
    parser.add_argument("--peer", metavar="DIR", required=True, help="the folder that has Apache Kafka's jars in libs")
    parser.add_argument("--clients", nargs="+", default=["java", "ours"], choices=["java", "ours"])
    parser.add_argument("--what", nargs="+", default=["produce", "latency"], choices=["produce", "latency"])
    parser.add_argument("--partitions", nargs="+", type=int, default=[1, 6])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=15)
    args = parser.parse_args()
    args.peer, args.binary = os.path.abspath(args.peer), os.path.abspath(args.binary)
    bench = Bench(args)
    ours, peer = Cluster(args.binary), kafka_cluster(args.peer)
    try:
        for cluster in (ours, peer):
            cluster.start()
        peer.create("warm-up", 6, DURABLE)
        bench.java(peer, "warm-up", args.records, -1, 5)
        for _ in range(args.turns):
            for partitions in args.partitions:
                for client in args.clients:
                    for what in args.what:
                        for name, cluster in (("ours", ours), ("peer", peer)):
                            bench.measure(name, cluster, client, partitions, what)
        bench.table()
    finally:
        ours.close()
        peer.close()


main()
