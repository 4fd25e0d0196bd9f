"""kafka-python: a client written from scratch in Python, with its own codec."""

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import OffsetOutOfRangeError

from harness import BOOTSTRAP, equal, main, name, test, until

admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def topic(partitions=1):
    new = name("kafkapython")
    admin.create_topics([NewTopic(new, num_partitions=partitions, replication_factor=1)])
    return new


def produce(where, count, **settings):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", **settings)
    futures = [producer.send(where, value=f"{n}".encode(), key=f"k{n}".encode()) for n in range(count)]
    producer.flush(30)
    for future in futures:
        future.get(20)
    producer.close()


def read(where, count, group=None):
    reader = KafkaConsumer(where, bootstrap_servers=BOOTSTRAP, group_id=group, auto_offset_reset="earliest",
                           enable_auto_commit=False)
    records = []

    def step():
        for batch in reader.poll(500).values():
            records.extend(batch)
        return len(records) >= count

    until(step, f"{count} records of {where}")
    if group:
        reader.commit()
    reader.close()
    return records


@test
def produce_and_consume():
    where = topic(3)
    produce(where, 1000)
    records = read(where, 1000)
    equal(sorted(int(r.value) for r in records), list(range(1000)))


@test
def compressed_by_gzip():
    where = topic()
    produce(where, 500, compression_type="gzip", linger_ms=20)
    equal([int(r.value) for r in read(where, 500)], list(range(500)))


@test
def idempotent():
    where = topic()
    produce(where, 500, enable_idempotence=True)
    equal([int(r.value) for r in read(where, 500)], list(range(500)))


@test
def group_offsets_are_kept():
    where, group = topic(), name("group")
    produce(where, 100)
    equal(len(read(where, 100, group)), 100)
    at = KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id=group)
    partition = TopicPartition(where, 0)
    equal(at.committed(partition), 100)
    equal(at.end_offsets([partition])[partition], 100)
    equal(at.beginning_offsets([partition])[partition], 0)
    at.close()


@test
def transactions():
    where = topic()
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=name("txn"), acks="all", enable_idempotence=True)
    producer.init_transactions()
    for number in range(4):
        producer.begin_transaction()
        producer.send(where, value=f"{number}".encode())
        if number % 2 == 0:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    reader = KafkaConsumer(where, bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest", isolation_level="read_committed")
    seen = []

    def step():
        for batch in reader.poll(500).values():
            seen.extend(int(record.value) for record in batch)
        return len(seen) >= 2

    until(step, "the committed records")
    reader.close()
    equal(seen, [0, 2])


@test
def fetch_session():
    where = topic(3)
    reader = KafkaConsumer(bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest", enable_auto_commit=False)
    reader.assign([TopicPartition(where, n) for n in range(3)])
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all")
    seen = []

    def step():
        for batch in reader.poll(300).values():
            seen.extend((record.partition, record.offset) for record in batch)
        return len(seen) >= expected

    # Partitions that have rested for some fetches, one after the other, then all at once.
    expected = 0
    for partitions in ([0], [1], [1], [2], [0, 1, 2]):
        for partition in partitions:
            producer.send(where, value=b"v", partition=partition).get(20)
        expected += len(partitions)
        until(step, f"{expected} records of {where}")
    equal(sorted(seen), [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)])
    session = next(iter(reader._fetcher._session_handlers.values())).next_metadata
    equal((session.session_id > 0, session.epoch > 1), (True, True))
    reader.close()
    producer.close()


@test
def records_are_deleted():
    where = topic()
    produce(where, 10)
    partition = TopicPartition(where, 0)
    equal(admin.delete_records({partition: 7})[partition]["low_watermark"], 7)
    equal([int(r.value) for r in read(where, 3)], [7, 8, 9])
    try:
        admin.delete_records({partition: 11})
        raise AssertionError("what is not there could be deleted")
    except OffsetOutOfRangeError:
        pass
    equal(admin.delete_records({partition: -1})[partition]["low_watermark"], 10)


@test
def topics_come_and_go():
    where = topic()
    assert where in admin.list_topics()
    admin.delete_topics([where])
    until(lambda: where not in admin.list_topics(), "the topic is gone")


main("kafka-python")
