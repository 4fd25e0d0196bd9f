#!/usr/bin/env python3
"""Measures `millstream broker` and Apache Kafka in turn, with the same clients, and prints one JSON line for each run.

    docs/bench/compare.py --peer HOST:PORT --peer-pid PID --perf "COMMAND" [--turns 3] [--records 1000000] [what ...]

`what` is any of: start, idle, produce, consume (with produce), latency. COMMAND runs Kafka's tools, such as "./peer.sh tool".
CPU seconds are user + system of the broker's process from /proc/PID/stat, so other load on the machine changes them little.
"""

import argparse, json, os, re, shlex, shutil, signal, socket, subprocess, sys, tempfile, time

TICK = os.sysconf("SC_CLK_TCK")
BINARY = os.path.join(os.path.dirname(__file__), "../../target/release/millstream")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        kib = re.search(r"VmRSS:\s+(\d+)", status.read())[1]
    return int(kib) / 1024


class Broker:
    """A broker under test: where it listens, and its process."""

    def __init__(self, name, address, pid, topic_config=()):
        self.name, self.address, self.pid, self.topic_config = name, address, pid, topic_config


class Ours(Broker):
    def __init__(self, binary):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % probe.getsockname()[1]
        self.data = tempfile.mkdtemp(prefix="millstream-bench-")
        began = time.monotonic()
        self.process = subprocess.Popen(
            [binary, "broker", "--data", self.data, "--listen", address], stdout=subprocess.PIPE, text=True
        )
        host, port = address.split(":")
        while True:
            try:
                socket.create_connection((host, int(port))).close()
                break
            except OSError:
                time.sleep(0.001)
        self.start_ms = (time.monotonic() - began) * 1e3
        super().__init__("millstream", address, self.process.pid)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        shutil.rmtree(self.data)


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


class Bench:
    def __init__(self, args):
        self.args, self.perf = args, shlex.split(args.perf)
        self.number = 0

    def topic(self, broker, partitions=1):
        os.sync()  # what the peer has not synced is written now, and not while somebody waits for a sync of his own
        self.number += 1
        name = f"bench-{os.getpid()}-{self.number}"
        config = [word for pair in broker.topic_config for word in ("--config", pair)]
        run(self.perf + ["topics", "--bootstrap-server", broker.address, "--create", "--topic", name,
                         "--partitions", str(partitions), *config], cwd=self.args.perf_dir)
        return name

    def drop(self, broker, topic):
        run(self.perf + ["topics", "--bootstrap-server", broker.address, "--delete", "--topic", topic], cwd=self.args.perf_dir)

    def timed(self, what, broker, client, nbytes, command):
        before, began = cpu_seconds(broker.pid), time.monotonic()
        text = run(command, cwd=self.args.perf_dir)
        cpu, took = cpu_seconds(broker.pid) - before, time.monotonic() - began
        figures = {"what": what, "broker": broker.name, "client": client, "cpu_seconds": round(cpu, 2),
                   "cpu_seconds_per_gb": round(cpu / (nbytes / 1e9), 3), "wall_seconds": round(took, 2)}
        if client == "millstream":
            figures |= {k: round(v, 2) for k, v in json.loads(text).items() if k.endswith(("_ms", "per_second"))}
        elif what == "consume":
            figures["mb_per_second"] = float(text.strip().splitlines()[-1].split(",")[3]) * 1.048576
        else:
            last = text.strip().splitlines()[-1]
            for p, key in (("50th", "p50_ms"), ("99th", "p99_ms"), ("99.9th", "p999_ms")):
                figures[key] = float(re.search(rf"([\d.]+) ms {re.escape(p)}", last)[1])
            figures["mb_per_second"] = round(float(re.search(r"\(([\d.]+) MB/sec\)", last)[1]) * 1.048576, 1)
        print(json.dumps(figures), flush=True)

    def produce(self, broker, topic, client, records, partitions=1, rate=-1, linger=5):
        if client == "java":
            command = self.perf + ["producer-perf", "--bootstrap-server", broker.address, "--topic", topic,
                                   "--num-records", str(records), "--record-size", "1024", "--throughput", str(rate),
                                   "--command-property", "acks=all", f"linger.ms={linger}", "buffer.memory=33554432"]
            if rate > 0:  # what the tool itself takes to start is no latency of a broker
                command += ["--warmup-records", str(records // 3)]
        else:
            command = [self.args.binary, "bench", "produce", "--json", "-b", broker.address, "--topic", topic,
                       "-n", str(records), "--size", "1024", "--acks", "all", "--linger-ms", str(linger)]
        self.timed("produce" if rate < 0 else f"latency at {rate}/s", broker, client, records * 1024, command)

    def consume(self, broker, topic, client, records):
        if client == "java":
            command = self.perf + ["consumer-perf", "--bootstrap-server", broker.address, "--topic", topic,
                                   "--num-records", str(records), "--hide-header"]
        else:
            command = [self.args.binary, "bench", "consume", "--json", "-b", broker.address, "--topic", topic, "-n", str(records)]
        self.timed("consume", broker, client, records * 1024, command)

    def latency(self, broker, client):
        topic, rate, seconds = self.topic(broker), self.args.rate, self.args.seconds
        if client == "java":
            self.produce(broker, topic, client, rate * seconds, rate=rate, linger=0)
        else:
            command = [self.args.binary, "bench", "latency", "--json", "-b", broker.address, "--topic", topic, "--rate",
                       str(rate), "--seconds", str(seconds), "--size", "1024", "--acks", "all", "--linger-ms", "0"]
            self.timed(f"latency at {rate}/s", broker, client, rate * seconds * 1024, command)
        self.drop(broker, topic)

    def throughput(self, broker, client, consume):
        topic = self.topic(broker)
        self.produce(broker, topic, client, self.args.records)
        for _ in range(2 if consume else 0):
            self.consume(broker, topic, client, self.args.records)
        self.drop(broker, topic)

    def idle(self, broker, seconds=20):
        before = cpu_seconds(broker.pid)
        time.sleep(seconds)
        cpu = (cpu_seconds(broker.pid) - before) / seconds
        print(json.dumps({"what": "idle", "broker": broker.name, "resident_mib": round(resident_mib(broker.pid), 1),
                          "percent_of_a_core": round(cpu * 100, 2)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["start", "idle", "produce", "consume", "latency"])
    parser.add_argument("--binary", default=BINARY)
    parser.add_argument("--peer")
    parser.add_argument("--peer-pid", type=int)
    parser.add_argument("--perf", default="./peer.sh tool")
    parser.add_argument("--perf-dir", default=".")
    parser.add_argument("--clients", nargs="+", default=["java", "millstream"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=20)
    args = parser.parse_args()
    args.binary = os.path.abspath(args.binary)
    bench = Bench(args)
    if "start" in args.what:
        for _ in range(5):
            ours = Ours(args.binary)
            print(json.dumps({"what": "start", "broker": ours.name, "ms": round(ours.start_ms, 1)}), flush=True)
            ours.close()
    ours = Ours(args.binary)
    brokers = [ours]
    if args.peer:
        brokers += [Broker("kafka", args.peer, args.peer_pid),
                    Broker("kafka, fsync", args.peer, args.peer_pid, ("flush.messages=1",))]
    try:
        if "idle" in args.what:
            for broker in brokers[:2]:
                bench.idle(broker)
        if args.peer and {"produce", "latency"} & set(args.what):
            topic = bench.topic(brokers[1])
            subprocess.run(bench.perf + ["producer-perf", "--bootstrap-server", args.peer, "--topic", topic, "--num-records", str(args.records),
                           "--record-size", "1024", "--throughput", "-1", "--command-property", "acks=all"],
                           stdout=subprocess.DEVNULL, cwd=args.perf_dir, check=True)
            bench.drop(brokers[1], topic)
        for _ in range(args.turns):
            for client in args.clients:
                for broker in brokers:
                    if "produce" in args.what:
                        bench.throughput(broker, client, "consume" in args.what and broker.name != "kafka, fsync")
                    if "latency" in args.what:
                        bench.latency(broker, client)
    finally:
        ours.close()


main()
