"""aiokafka: the asyncio client."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from harness import BOOTSTRAP, equal, main, name, test


def run(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, 60))


async def topic(partitions=1):
    new = name("aio")
    admin = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    await admin.start()
    await admin.create_topics([NewTopic(new, partitions, 1)])
    await admin.close()
    return new


async def read(where, count, **settings):
    reader = AIOKafkaConsumer(where, bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest", **settings)
    await reader.start()
    records = [await asyncio.wait_for(reader.getone(), 20) for _ in range(count)]
    if settings.get("group_id"):
        await reader.commit()
    await reader.stop()
    return records


@test
def produce_and_consume():
    async def body():
        where = await topic(3)
        producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", enable_idempotence=True)
        await producer.start()
        answers = [await producer.send(where, f"{n}".encode(), key=f"k{n}".encode()) for n in range(500)]
        await asyncio.gather(*answers)
        await producer.stop()
        equal(sorted(int(r.value) for r in await read(where, 500)), list(range(500)))
    run(body())


@test
def group_commits_and_continues():
    async def body():
        where, group = await topic(), name("group")
        producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP)
        await producer.start()
        for n in range(20):
            await producer.send_and_wait(where, f"{n}".encode())
        equal(len(await read(where, 20, group_id=group, enable_auto_commit=False)), 20)
        await producer.send_and_wait(where, b"20")
        [record] = await read(where, 1, group_id=group, enable_auto_commit=False)
        equal(record.offset, 20)
        await producer.stop()
    run(body())


@test
def consume_transform_produce_exactly_once():
    async def body():
        source, where, group = await topic(), await topic(), name("group")
        producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=name("txn"))
        await producer.start()
        for number in range(4):
            try:
                async with producer.transaction():
                    await producer.send(where, f"{number}".encode())
                    await producer.send_offsets_to_transaction({TopicPartition(source, 0): number + 1}, group)
                    if number % 2:
                        raise KeyError("abort")
            except KeyError:
                pass
        await producer.stop()
        records = await read(where, 2, isolation_level="read_committed")
        equal([r.value for r in records], [b"0", b"2"])
        watcher = AIOKafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id=group)
        await watcher.start()
        equal(await watcher.committed(TopicPartition(source, 0)), 3)
        await watcher.stop()
    run(body())


main("aiokafka")
