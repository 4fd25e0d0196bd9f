"""librdkafka, through confluent-kafka."""

import threading

from confluent_kafka import (Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition,
                             OFFSET_BEGINNING, OFFSET_END, ConsumerGroupState)
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   OffsetSpec, ResourceType)

from harness import BOOTSTRAP, equal, main, name, test, until
from liar import Liar

admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def topic(partitions=1, **config):
    new = name("confluent")
    admin.create_topics([NewTopic(new, partitions, 1, config=config)])[new].result(20)
    return new


def produce(where, values, partition=-1, **settings):
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "acks": "all", **settings})
    offsets = []

    def delivered(error, message):
        assert error is None, error
        offsets.append((message.partition(), message.offset()))

    for value in values:
        producer.produce(where, key=f"k{value}", value=f"v{value}", partition=partition, on_delivery=delivered)
        producer.poll(0)
    equal(producer.flush(30), 0, "records left in the producer")
    equal(len(offsets), len(values), "acknowledged")
    return offsets


def consumer(group=None, **settings):
    return Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group or name("group"), "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "enable.partition.eof": True, **settings})


def read_all(where, partitions=1, **settings):
    """Every record of a topic, by partition, up to the end of each."""
    reader = consumer(**settings)
    reader.assign([TopicPartition(where, p, OFFSET_BEGINNING) for p in range(partitions)])
    records, ended = [], set()

    def step():
        message = reader.poll(1.0)
        if message is None:
            return False
        if message.error():
            equal(message.error().code(), KafkaError._PARTITION_EOF)
            ended.add(message.partition())
        else:
            records.append(message)
        return len(ended) == partitions

    until(step, f"end of {where}")
    reader.close()
    return records


@test
def every_compression_comes_back_as_sent():
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        where = topic()
        produce(where, range(500), **{"compression.type": codec, "linger.ms": 50})
        equal([m.value() for m in read_all(where)], [f"v{n}".encode() for n in range(500)], codec)


@test
def idempotent_producer_keeps_order_over_partitions():
    where = topic(4)
    produce(where, range(5000), **{"enable.idempotence": True})
    seen = {}
    for message in read_all(where, 4):
        seen.setdefault(message.partition(), []).append((message.offset(), int(message.value()[1:])))
    equal(sum(map(len, seen.values())), 5000)
    for records in seen.values():
        equal([offset for offset, _ in records], list(range(len(records))), "offsets")
        equal([v for _, v in records], sorted(v for _, v in records), "order of sends")


@test
def headers_keys_nulls_and_timestamps_survive():
    where = topic()
    producer = Producer({"bootstrap.servers": BOOTSTRAP})
    producer.produce(where, key=None, value=None, headers=[("a", b"1"), ("a", b"2"), ("n", None)], timestamp=1234567)
    producer.flush(20)
    [message] = read_all(where)
    equal((message.key(), message.value()), (None, None))
    equal(message.headers(), [("a", b"1"), ("a", b"2"), ("n", None)])
    equal(message.timestamp()[1], 1234567)


class Member:
    """A consumer on a thread of its own. A member's commit may wait behind its own JoinGroup (they share a connection, which the
    broker answers in order) until every other member has joined too, so one thread for all of them would wait for itself."""

    def __init__(self, where, group, seen, stepped, strategy):
        self.consumer = consumer(group, **{"partition.assignment.strategy": strategy, "session.timeout.ms": 10000})
        self.consumer.subscribe([where])
        self.seen, self.stepped = seen, stepped
        self.share, self.uncommitted, self.failed = 0, {}, None
        self.leaving = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while not self.leaving.is_set():
                self.step()
                with self.stepped:
                    self.stepped.notify_all()
            self.consumer.close()
        except Exception as error:  # said by whoever looks at the group
            self.failed = error

    def step(self):
        message = self.consumer.poll(0.1)
        assigned = {p.partition for p in self.consumer.assignment()}
        if message is not None and not message.error():
            self.seen.add(int(message.value()[1:]))
            self.uncommitted[message.partition()] = TopicPartition(message.topic(), message.partition(), message.offset() + 1)
        # What another member has now, that member reads and commits again.
        self.uncommitted = {p: at for p, at in self.uncommitted.items() if p in assigned}
        self.share = len(assigned)
        if self.uncommitted:
            try:
                self.consumer.commit(offsets=list(self.uncommitted.values()), asynchronous=False)
                self.uncommitted = {}
            except KafkaException as error:
                retriable = (KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION)
                if error.args[0].code() not in retriable:
                    raise

    def leave(self):
        self.leaving.set()
        self.thread.join(60)
        equal((self.thread.is_alive(), self.failed), (False, None), "a member that leaves")


def group_consumes(strategy):
    where, group, seen, stepped = topic(6), name("group"), set(), threading.Condition()
    produce(where, range(600))
    members = [Member(where, group, seen, stepped, strategy) for _ in range(3)]

    def settled(share):
        with stepped:
            stepped.wait(1.0)
        equal([member.failed for member in members], [None] * len(members))
        return all(member.share == share and not member.uncommitted for member in members)

    until(lambda: settled(2) and len(seen) == 600, f"600 records and 2 partitions for each of 3 members ({strategy})", 60)
    members.pop().leave()
    until(lambda: settled(3), f"3 partitions for each of the 2 that stay ({strategy})", 60)
    for member in members:
        member.leave()
    watcher = consumer(group)
    committed = watcher.committed([TopicPartition(where, p) for p in range(6)], 20)
    equal(sum(p.offset for p in committed), 600, "committed")
    watcher.close()


@test
def eager_group_shares_rebalances_and_commits():
    group_consumes("range,roundrobin")


@test
def cooperative_group_shares_rebalances_and_commits():
    group_consumes("cooperative-sticky")


@test
def static_member_returns_without_a_rebalance():
    where, group = topic(2), name("group")
    settings = {"group.instance.id": "one", "session.timeout.ms": 30000}
    first = consumer(group, **settings)
    first.subscribe([where])
    until(lambda: first.poll(0.2) is not None or first.assignment(), "an assignment")
    until(lambda: (first.poll(0.1), len(first.assignment()) == 2)[1], "both partitions")
    member = first.memberid()
    first.close()
    second = consumer(group, **settings)
    second.subscribe([where])
    until(lambda: (second.poll(0.1), len(second.assignment()) == 2)[1], "both partitions again")
    assert member and second.memberid() != member, (member, second.memberid())
    second.close()


@test
def transactions_commit_whole_and_abort_unseen():
    where, source, group = topic(2), topic(), name("group")
    produce(source, range(10))
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": name("txn")})
    producer.init_transactions(30)
    reader = consumer(group)
    reader.subscribe([source])
    until(lambda: (reader.poll(0.1), reader.assignment())[1], "an assignment")
    for number in range(6):
        producer.begin_transaction()
        for partition in range(2):
            producer.produce(where, value=f"{number}", partition=partition)
        equal(producer.flush(20), 0, "unsent")  # an abort drops what was not sent yet, and it shall be in the log
        producer.send_offsets_to_transaction([TopicPartition(source, 0, number + 1)], reader.consumer_group_metadata(), 20)
        if number % 2 == 0:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    committed = [m.value() for m in read_all(where, 2, **{"isolation.level": "read_committed"})]
    equal(sorted(committed), [b"0", b"0", b"2", b"2", b"4", b"4"])
    every = [m.value() for m in read_all(where, 2, **{"isolation.level": "read_uncommitted"})]
    equal(len(every), 12)
    [at] = reader.committed([TopicPartition(source, 0)], 20)
    equal(at.offset, 5, "offset of the last committed transaction")
    reader.close()


@test
def a_second_producer_fences_the_first():
    where, txn = topic(), name("txn")
    old = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": txn})
    old.init_transactions(30)
    old.begin_transaction()
    old.produce(where, value="zombie")
    old.flush(20)
    new = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": txn})
    new.init_transactions(30)
    try:
        old.commit_transaction(30)
        raise AssertionError("the fenced producer could commit")
    except KafkaException as error:
        assert error.args[0].code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH), error
    new.begin_transaction()
    new.produce(where, value="alive")
    new.commit_transaction(30)
    equal([m.value() for m in read_all(where, **{"isolation.level": "read_committed"})], [b"alive"])


@test
def admin_topics_partitions_and_configs():
    where = topic(1, **{"retention.ms": "123456"})
    admin.create_partitions([NewPartitions(where, 3)])[where].result(20)
    until(lambda: len(admin.list_topics(where, 10).topics[where].partitions) == 3, "three partitions")
    resource = ConfigResource(ResourceType.TOPIC, where)
    config = admin.describe_configs([resource])[resource].result(20)
    equal(config["retention.ms"].value, "123456")
    equal(config["cleanup.policy"].value, "delete")
    change = ConfigResource(ResourceType.TOPIC, where, incremental_configs=[
        ConfigEntry("retention.ms", "654321", incremental_operation=AlterConfigOpType.SET)])
    admin.incremental_alter_configs([change])[change].result(20)
    equal(admin.describe_configs([resource])[resource].result(20)["retention.ms"].value, "654321")
    try:
        admin.create_topics([NewTopic(where, 1, 1)])[where].result(20)
        raise AssertionError("the topic could be created twice")
    except KafkaException as error:
        equal(error.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS)
    admin.delete_topics([where])[where].result(20)
    until(lambda: where not in admin.list_topics(timeout=10).topics, "the topic is gone")
    cluster = admin.describe_cluster().result(20)
    equal(len(cluster.nodes), 1)


def transactions_after_a_lie(void, kept):
    """One transaction of `void` records is aborted after the broker said that they are not written, and `kept` ones are committed."""
    where = topic()
    liar = Liar(BOOTSTRAP, where)
    producer = Producer({"bootstrap.servers": liar.address, "transactional.id": name("txn"), "linger.ms": 50,
                         "retry.backoff.ms": 60_000, "retry.backoff.max.ms": 60_000})
    producer.init_transactions(30)

    def send(values):
        producer.begin_transaction()
        for value in values:
            producer.produce(where, value=value, partition=0)

    send(["first"])
    producer.commit_transaction(30)
    liar.armed = True
    send(void)
    until(lambda: (producer.poll(0.1), liar.lied.is_set())[1], "the lie")
    producer.abort_transaction(30)
    aborted = 0
    for values in kept:
        while True:
            send(values)
            try:
                producer.commit_transaction(30)
                break
            except KafkaException as error:
                assert error.args[0].txn_requires_abort(), error
                producer.abort_transaction(30)
                aborted += 1
    read = [message.value().decode() for message in read_all(where, **{"isolation.level": "read_committed"})]
    equal(read, ["first", *(value for values in kept for value in values)], "what was committed")
    equal(aborted, 1, "transactions that had to be aborted")
    liar.close()


@test
def a_transaction_is_not_taken_for_the_aborted_one_whose_sequences_it_uses():
    """librdkafka believes a broker that says it does not lead: after an abort it gives the same numbers to the next records."""
    transactions_after_a_lie(["void-1", "void-2"], [["kept-1", "kept-2"], ["kept-3"]])


@test
def nor_do_transactions_that_use_some_of_its_sequences_stall():
    for lengths in (1, 1), (2, 2, 2), (3, 1), (7,):
        kept = [[f"kept-{n}-{m}" for m in range(length)] for n, length in enumerate(lengths)]
        transactions_after_a_lie([f"void-{n}" for n in range(5)], kept)


@test
def admin_deletes_records():
    where = topic(2)
    produce(where, range(10), partition=0)
    produce(where, range(4), partition=1)
    first, second = TopicPartition(where, 0, 6), TopicPartition(where, 1, OFFSET_END)
    deleted = admin.delete_records([first, second])
    equal([deleted[asked].result(20).low_watermark for asked in (first, second)], [6, 4])
    reader = consumer()
    equal([reader.get_watermark_offsets(TopicPartition(where, p), 10) for p in range(2)], [(6, 10), (4, 4)])
    reader.close()
    equal([m.value() for m in read_all(where, 2)], [f"v{n}".encode() for n in range(6, 10)])
    beyond = TopicPartition(where, 0, 11)
    try:
        admin.delete_records([beyond])[beyond].result(20)
        raise AssertionError("what is not there could be deleted")
    except KafkaException as error:
        equal(error.args[0].code(), KafkaError.OFFSET_OUT_OF_RANGE)


@test
def admin_offsets_and_groups():
    where, group = topic(), name("group")
    produce(where, range(30))
    partition = TopicPartition(where, 0)
    equal(admin.list_offsets({partition: OffsetSpec.latest()})[partition].result(20).offset, 30)
    equal(admin.list_offsets({partition: OffsetSpec.earliest()})[partition].result(20).offset, 0)
    by_time = admin.list_offsets({partition: OffsetSpec.for_timestamp(1)})[partition].result(20)
    equal(by_time.offset, 0)
    reader = consumer(group)
    reader.subscribe([where])
    until(lambda: (reader.poll(0.1), reader.assignment())[1], "an assignment")
    reader.commit(offsets=[TopicPartition(where, 0, 7, metadata="note")], asynchronous=False)
    described = admin.describe_consumer_groups([group])[group].result(20)
    equal(described.state, ConsumerGroupState.STABLE)
    equal(len(described.members), 1)
    assert group in [g.group_id for g in admin.list_consumer_groups().result(20).valid]
    reader.close()
    watcher = consumer(group)
    [at] = watcher.committed([TopicPartition(where, 0)], 20)
    equal((at.offset, at.metadata), (7, "note"))
    watcher.close()
    until(lambda: admin.describe_consumer_groups([group])[group].result(20).state == ConsumerGroupState.EMPTY, "empty")
    admin.delete_consumer_groups([group])[group].result(20)
    assert group not in [g.group_id for g in admin.list_consumer_groups().result(20).valid]


main("confluent-kafka")
