"""The load of faults.py, and its judge: producers of librdkafka in this process and of Java in another (java/FaultLoad.java), which
note what they were promised, and what is wrong with what is there.

Records are "KEY NUMBER" or "KEY TRANSACTION INDEX" as text. Each producer has a key of its own. One with acks=all and idempotence
numbers its records for each partition. One with transactions writes a few records to each of several partitions, indexed from 0 in
each, and commits or, now and then, aborts.
"""

import collections, logging, os, random, signal, subprocess, threading, time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from cluster import Load, until

PATIENCE_S = 180
CALL_S = 10
TRANSACTION_TIMEOUT_MS = 8_000  # less than many faults last: the coordinator aborts, and fences who began
ABORTED_ON_PURPOSE = 0.15
GIVE_UP_S = 30  # what Java's process has to end when its patience is over
SILENCE = logging.getLogger("librdkafka")
SILENCE.addHandler(logging.NullHandler())
SILENCE.propagate = False  # a producer that is fenced would say so whatever its log_level
JAVA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "java/FaultLoad.java")


class Records:
    """What one idempotent producer knows: the numbers that were acknowledged in each partition."""

    def __init__(self, client, key):
        self.client, self.key, self.name = client, key, f"{client} writer {key}"
        self.acknowledged = collections.defaultdict(list)
        self.failed = []
        self.last = 0.0

    def acknowledge(self, partition, number):
        self.acknowledged[partition].append(number)
        self.last = time.monotonic()

    def count(self):
        return sum(map(len, self.acknowledged.values()))


class Transactions:
    """What one transactional producer knows: how many records each transaction has in which partitions, and how it ended: "committed",
    "aborted" (it may have been given up without ever asking for a commit), or "unknown", as it is too while nothing is noted."""

    def __init__(self, client, key):
        self.client, self.key, self.name = client, key, f"{client} transactions {key}"
        self.begun, self.outcomes = {}, {}
        self.failed, self.errors = [], collections.Counter()
        self.last = 0.0

    def settle(self, number, outcome):
        self.outcomes[number] = outcome
        if outcome == "committed":
            self.last = time.monotonic()

    def counts(self):
        return collections.Counter(self.outcomes.get(number, "unknown") for number in self.begun)


class Writer(Records, threading.Thread):
    """An idempotent producer of librdkafka."""

    def __init__(self, cluster, topic, key, partitions, rate):
        threading.Thread.__init__(self, daemon=True)
        Records.__init__(self, "librdkafka", key)
        self.partitions, self.rate = partitions, rate
        self.sent = collections.Counter()
        self.ending = threading.Event()
        client = {"message.timeout.ms": 0, "client.id": f"writer-{key}"}
        self.load = Load(cluster.bootstrap, topic, self.answered, client)

    def answered(self, partition, number, _sent_at, error):
        if error:
            self.failed.append(f"{self.name}, partition {partition}, number {number}: {error}")
        else:
            self.acknowledge(partition, number)

    def run(self):
        turn = 0
        while not self.ending.is_set():
            if sum(self.sent.values()) - self.count() < 20_000:
                partition = turn % self.partitions
                number = self.sent[partition]
                self.sent[partition] += 1
                self.load.send(partition, number, b"%d" % self.key, b"%d %d" % (self.key, number))
                turn += 1
            self.load.poll(1 / self.rate)

    def begin_end(self):
        self.ending.set()

    def end(self):
        self.join()
        try:
            self.load.flush(PATIENCE_S)
        except TimeoutError as error:
            self.failed.append(f"{self.name}: {error}")


class TransactionalWriter(Transactions, threading.Thread):
    """A transactional producer of librdkafka. What it does on which error is what the manual demands."""

    def __init__(self, cluster, topic, key, partitions):
        threading.Thread.__init__(self, daemon=True)
        Transactions.__init__(self, "librdkafka", key)
        self.cluster, self.topic, self.partitions = cluster, topic, partitions
        self.random = random.Random(key)
        self.producer = None
        self.ending, self.give_up_at = threading.Event(), float("inf")

    def run(self):
        try:
            while not self.ending.is_set():
                self.one(len(self.begun))
                self.ending.wait(self.random.uniform(0, 0.1))
        except Exception as error:
            self.failed.append(f"{self.name} ended: {error!r}")

    def begin_end(self):
        self.give_up_at = time.monotonic() + PATIENCE_S
        self.ending.set()

    def end(self):
        self.join()
        self.producer = None

    def one(self, number):
        if not self.producer:
            self.begin_anew()
        among = self.random.sample(range(self.partitions), self.random.randint(2, min(4, self.partitions)))
        self.begun[number] = {partition: self.random.randint(1, 3) for partition in among}
        verdict, asked = "abort", False
        if self.written(number) and self.random.random() >= ABORTED_ON_PURPOSE:
            asked = True
            verdict = self.call(self.producer.commit_transaction)
            if verdict == "done":
                return self.settle(number, "committed")
        if verdict == "abort" and self.call(self.producer.abort_transaction) == "done":
            return self.settle(number, "aborted")
        self.producer = None
        self.begin_anew()  # which settles what the old one left
        self.settle(number, "unknown" if asked else "aborted")

    def written(self, number):
        """Whether all records could be handed over; else the transaction is to be aborted."""
        left = dict(self.begun[number])
        indices = collections.Counter()
        try:
            self.producer.begin_transaction()
            while left:
                partition = self.random.choice(list(left))
                value = b"%d %d %d" % (self.key, number, indices[partition])
                self.producer.produce(self.topic, value, b"%d" % self.key, partition)
                indices[partition] += 1
                if indices[partition] == left[partition]:
                    del left[partition]
                self.producer.poll(self.random.choice((0, 0, 0, 0.02)))
        except KafkaException as error:
            self.errors[error.args[0].name()] += 1
            return False
        return True

    def begin_anew(self):
        while not self.producer:
            producer = Producer(
                {
                    "bootstrap.servers": self.cluster.bootstrap,
                    "transactional.id": f"transactions-{self.key}",
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "client.id": f"transactions-{self.key}",
                    "linger.ms": 1,
                },
                logger=SILENCE,
            )
            if self.call(producer.init_transactions) == "done":
                self.producer = producer

    def call(self, api):
        """"done", "abort" where the transaction can only be aborted, "fatal" where the producer is of no use any more."""
        while True:
            try:
                api(CALL_S)
                return "done"
            except KafkaException as exception:
                error = exception.args[0]
            self.errors[error.name()] += 1
            if time.monotonic() > self.give_up_at:
                raise TimeoutError(f"{api.__name__} of transaction {len(self.begun) - 1}: {error}")
            if error.txn_requires_abort():
                return "abort"
            if error.fatal() or not error.retriable():
                time.sleep(0.2)
                return "fatal"
            time.sleep(0.1)


class JavaLoad:
    """A process with as many producers of each kind; it writes until its standard input is closed, and tells on its standard output
    what happens. Their keys begin at `key`."""

    def __init__(self, cluster, peer_dir, topics, partitions, counts, rate, key):
        keys = range(key, key + counts[0]), range(key + counts[0], key + sum(counts))
        self.records = {key: Records("java", key) for key in keys[0]}
        self.transactions = {key: Transactions("java", key) for key in keys[1]}
        self.log_path = os.path.join(cluster.folder, "java-load.log")
        self.ended = False
        command = ["java", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.apache.logging.log4j.level=WARN"]
        command += ["-cp", os.path.join(peer_dir, "libs/*"), JAVA, cluster.bootstrap, *topics]
        command += map(str, (partitions, rate, TRANSACTION_TIMEOUT_MS, ABORTED_ON_PURPOSE, PATIENCE_S * 1000))
        command += [",".join(map(str, some)) for some in keys]
        self.log = open(self.log_path, "a")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, bufsize=1
        )
        self.reader = threading.Thread(target=self.listen, daemon=True)
        self.reader.start()

    @property
    def writers(self):
        return [*self.records.values(), *self.transactions.values()]

    def listen(self):
        for line in self.process.stdout:
            try:
                self.take(*line.split())
            except (KeyError, TypeError, ValueError):  # a virtual machine's own words, as its threads on SIGQUIT
                self.log.write(line)
                self.log.flush()

    def take(self, event, key=None, *rest):
        key = int(key) if key else None
        if event == "acknowledged":
            self.records[key].acknowledge(*map(int, rest))
        elif event == "begun":
            parts = (part.split(":") for part in rest[1:])
            self.transactions[key].begun[int(rest[0])] = {int(partition): int(count) for partition, count in parts}
        elif event in ("committed", "aborted", "unknown"):
            self.transactions[key].settle(int(rest[0]), event)
        elif event == "handled":
            self.transactions[key].errors[rest[0]] += 1
        elif event == "failed":
            writer = self.records.get(key) or self.transactions[key]
            writer.failed.append(f"{writer.name}: {' '.join(rest)}")
        elif event == "end":
            self.ended = True
        else:
            raise ValueError(event)

    def begin_end(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already

    def end(self):
        """What is wrong with how it ended, in words."""
        try:
            self.process.wait(PATIENCE_S + GIVE_UP_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)  # what its threads wait for
            time.sleep(2)
            self.kill()
        self.reader.join()
        return [] if self.ended else [f"the Java load did not end by itself; see {self.log_path}"]

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def read(cluster, topic, partitions, isolation):
    """What each partition has, from its begin to its end: for each key the numbers behind it, in the order of the log."""
    client = {"bootstrap.servers": cluster.bootstrap, "group.id": "check", "enable.auto.commit": False, "log_level": 0}
    asking = Consumer({**client, "isolation.level": "read_uncommitted"})
    consumer = Consumer({**client, "isolation.level": isolation, "enable.partition.eof": True})
    found = {}
    try:
        for partition in range(partitions):
            at = TopicPartition(topic, partition, 0)
            _, end = until("the end is known", lambda: watermarks(asking, at))
            found[partition] = collections.defaultdict(list)
            consumer.assign([at])
            position, patience = 0, time.monotonic() + 120
            while position < end:  # also over the marks of transactions, of which only the end of the partition tells
                if time.monotonic() > patience:
                    raise TimeoutError(f"{topic}-{partition} is read ({isolation}) up to {position} of {end} only")
                for message in consumer.consume(1000, 1.0):
                    if not message.error():
                        key, *numbers = map(int, message.value().split())
                        found[partition][key].append(tuple(numbers))
                        position = message.offset() + 1
                    elif message.error().code() == KafkaError._PARTITION_EOF:
                        position = message.offset()
    finally:
        asking.close()
        consumer.close()
    return found


def watermarks(consumer, at):
    try:
        return consumer.get_watermark_offsets(at, timeout=5)
    except KafkaException:
        return None


def judge_records(found, writers):
    """What is wrong with what was read, in words."""
    wrong = []
    for writer in writers:
        for partition in found:
            numbers = [number for number, in found[partition].get(writer.key, ())]
            where = f"{writer.name}, partition {partition}"
            lost = sorted(set(writer.acknowledged.get(partition, ())) - set(numbers))
            doubled = [number for number, count in collections.Counter(numbers).items() if count > 1]
            if lost:
                wrong.append(f"{where}: {len(lost)} acknowledged records are lost, first {lost[:5]}")
            if doubled:
                wrong.append(f"{where}: {len(doubled)} records are there more than once, first {doubled[:5]}")
            if not doubled and numbers != sorted(numbers):
                wrong.append(f"{where}: the order is another than that of sending")
    return wrong


def judge_transactions(found, writers, settled):
    """The same for transactions. `settled` takes how those of unknown outcome ended, and the next read must find them so."""
    wrong = []
    for writer in writers:
        there = collections.defaultdict(lambda: collections.defaultdict(list))
        for partition in found:
            order = found[partition].get(writer.key, [])
            for number, index in order:
                there[number][partition].append(index)
            if len(order) == len(set(order)) and order != sorted(order):
                wrong.append(f"{writer.name}, partition {partition}: the order is another than that of sending")
        cases = collections.defaultdict(list)
        for number in sorted(writer.begun.keys() | there.keys()):
            parts = {partition: sorted(indices) for partition, indices in there.get(number, {}).items()}
            whole = {partition: list(range(count)) for partition, count in writer.begun.get(number, {}).items()}
            outcome = writer.outcomes.get(number, "unknown")
            if outcome == "unknown":
                outcome = settled.setdefault((writer.key, number), outcome_of(parts, whole))
            case = case_of(outcome, parts, whole)
            if case:
                cases[case].append(f"{number} {parts} of {whole}")
        wrong += [f"{writer.name}: {len(those)} {case}, first {'; '.join(those[:3])}" for case, those in cases.items()]
    return wrong


def outcome_of(parts, whole):
    if not parts:
        return "aborted"
    return "committed" if parts == whole else "unknown"


def case_of(outcome, parts, whole):
    """In what a transaction is wrong, if it is."""
    if not whole:
        return "transactions are there that were never begun"
    if any(len(indices) != len(set(indices)) for indices in parts.values()):
        return "transactions are there more than once"
    if outcome == "aborted" and parts:
        return "aborted transactions are there"
    if outcome == "committed" and not parts:
        return "committed transactions are lost"
    if outcome != "aborted" and parts != whole:
        return f"transactions ({outcome}) are there in part"
    return None


def self_test():
    """Shows the judge what is right and what is wrong; the exit code."""
    writer = Records("test", 1)
    for number in range(5):
        writer.acknowledge(0, number)
    records = {
        "right": ([0, 1, 2, 3, 4], ""),
        "right, and one more that was not acknowledged": ([0, 1, 2, 3, 4, 5], ""),
        "lost": ([0, 1, 3, 4], "lost"),
        "lost at the end": ([0, 1, 2, 3], "lost"),
        "all lost": ([], "lost"),
        "doubled": ([0, 1, 2, 2, 3, 4], "more than once"),
        "reordered": ([0, 2, 1, 3, 4], "order"),
    }
    transactional = Transactions("test", 2)
    transactional.begun = {number: {0: 2, 1: 1} for number in range(5)}
    transactional.outcomes = {0: "committed", 1: "aborted", 2: "unknown", 3: "committed"}
    whole = {0: [(0, 0), (0, 1), (3, 0), (3, 1)], 1: [(0, 0), (3, 0)]}
    of_two = {0: [(0, 0), (0, 1), (2, 0), (2, 1), (3, 0), (3, 1)], 1: [(0, 0), (2, 0), (3, 0)]}
    transactions = {
        "right": (whole, whole, ""),
        "unknown and there": (of_two, of_two, ""),
        "unknown, there, and gone": (of_two, whole, "lost"),
        "unknown, not there, and there": (whole, of_two, "aborted"),
        "unknown and there in part": ({**of_two, 1: whole[1]}, None, "in part"),
        "never noted, and there in part": ({**whole, 1: [*whole[1], (4, 0)]}, None, "in part"),
        "committed and lost": ({0: whole[0][2:], 1: whole[1][1:]}, None, "lost"),
        "committed and lost in one partition": ({**whole, 1: whole[1][1:]}, None, "in part"),
        "committed and lost in part": ({**whole, 0: whole[0][1:]}, None, "in part"),
        "committed and doubled": ({**whole, 1: [(0, 0), (0, 0), (3, 0)]}, None, "more than once"),
        "aborted and there": ({**whole, 1: [(0, 0), (1, 0), (3, 0)]}, None, "aborted"),
        "records reordered": ({**whole, 0: [(0, 1), (0, 0), (3, 0), (3, 1)]}, None, "order"),
        "transactions reordered": ({**whole, 1: [(3, 0), (0, 0)]}, None, "order"),
        "never begun": ({**whole, 1: [*whole[1], (9, 0)]}, None, "never begun"),
    }
    said = {}
    for name, (numbers, word) in records.items():
        said[f"records: {name}"] = (judge_records({0: {1: [(number,) for number in numbers]}}, [writer]), word)
    for name, (first, second, word) in transactions.items():
        settled, wrong = {}, []
        for each in (first, second or first):
            wrong = judge_transactions({p: {2: there} for p, there in each.items()}, [transactional], settled)
        said[f"transactions: {name}"] = (wrong, word)
    bad = 0
    for name, (wrong, word) in said.items():
        good = any(word in fault for fault in wrong) if word else not wrong
        bad += not good
        print(f"{'ok    ' if good else 'FAILED'} {name}: {'; '.join(wrong) or 'nothing is wrong'}")
    return 1 if bad else 0
