import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Properties;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicInteger;

import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Java's half of the load of docs/bench/faults.py (see load.py, which starts it): idempotent and transactional producers that write until
 * standard input is closed.
 *
 * <pre>java -cp 'DIR/libs/*' FaultLoad.java BOOTSTRAP TOPIC TRANSACTIONS_TOPIC PARTITIONS RATE TIMEOUT_MS ABORTED PATIENCE_MS KEYS KEYS</pre>
 *
 * The first keys are those of idempotent producers, the second those of transactional ones. Nobody gives up before standard input has been
 * closed for so long. A line for each event, on standard output:
 * "acknowledged KEY PARTITION NUMBER", "failed KEY WORDS", "begun KEY TRANSACTION PARTITION:COUNT...", "committed KEY TRANSACTION",
 * "aborted ...", "unknown ...", "handled KEY EXCEPTION", and "end" at the end.
 */
public final class FaultLoad {
    private static final int UNANSWERED = 5_000;

    private static PrintStream events;
    private static volatile boolean ending;
    private static volatile long giveUpAt = Long.MAX_VALUE;

    private static String bootstrap;
    private static int partitions;
    private static int rate;
    private static String timeoutMs;
    private static double aborted;

    public static void main(String[] args) throws Exception {
        events = System.out;
        System.setOut(System.err); // what loggers say is no event
        bootstrap = args[0];
        partitions = Integer.parseInt(args[3]);
        rate = Integer.parseInt(args[4]);
        timeoutMs = args[5];
        aborted = Double.parseDouble(args[6]);
        List<Thread> threads = new ArrayList<>();
        keys(args[8]).forEach(key -> threads.add(thread(key, () -> write(key, args[1]))));
        keys(args[9]).forEach(key -> threads.add(thread(key, () -> new Transactional(key, args[2]).run())));
        threads.forEach(Thread::start);
        while (System.in.read() >= 0) {
            continue;
        }
        giveUpAt = System.currentTimeMillis() + Long.parseLong(args[7]);
        ending = true;
        for (Thread thread : threads) {
            thread.join();
        }
        tell("end");
        System.exit(0);
    }

    private static List<Integer> keys(String list) {
        return list.isEmpty() ? List.of() : Arrays.stream(list.split(",")).map(Integer::valueOf).toList();
    }

    private static Thread thread(int key, Runnable work) {
        return new Thread(() -> {
            try {
                work.run();
            } catch (Throwable error) {
                tell("failed " + key + " ended: " + error);
                error.printStackTrace();
            }
        }, "load-" + key);
    }

    private static void tell(String event) {
        synchronized (events) {
            events.println(event.replace('\n', ' '));
        }
    }

    private static KafkaProducer<String, String> producer(int key, Object... more) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("client.id", "java-" + key);
        properties.put("acks", "all");
        properties.put("enable.idempotence", "true");
        properties.put("linger.ms", "1");
        properties.put("buffer.memory", "16777216");
        properties.put("delivery.timeout.ms", Integer.toString(Integer.MAX_VALUE));
        for (int at = 0; at < more.length; at += 2) {
            properties.put(more[at], more[at + 1].toString());
        }
        return new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
    }

    private static boolean isTooLate() {
        return System.currentTimeMillis() > giveUpAt;
    }

    private static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    /** One idempotent producer: it numbers its records for each partition. */
    private static void write(int key, String topic) {
        int[] sent = new int[partitions];
        AtomicInteger unanswered = new AtomicInteger();
        KafkaProducer<String, String> producer = producer(key, "max.block.ms", Integer.MAX_VALUE);
        for (int turn = 0; !ending; turn++) {
            pause(Math.max(1, 1000 / rate));
            if (unanswered.get() >= UNANSWERED) {
                continue;
            }
            int partition = turn % partitions;
            int number = sent[partition]++;
            unanswered.incrementAndGet();
            producer.send(new ProducerRecord<>(topic, partition, "" + key, key + " " + number), (metadata, error) -> {
                tell(error == null
                    ? "acknowledged " + key + " " + partition + " " + number
                    : "failed " + key + " partition " + partition + ", number " + number + ": " + error);
                unanswered.decrementAndGet();
            });
        }
        while (unanswered.get() > 0 && !isTooLate()) {
            pause(10);
        }
        if (unanswered.get() > 0) {
            tell("failed " + key + " " + unanswered + " records have no answer");
        }
        producer.close(Duration.ZERO);
    }

    /** One transactional producer. What is done on which exception is what KafkaProducer's documentation demands. */
    private static final class Transactional {
        private final int key;
        private final String topic;
        private final Random random;
        private KafkaProducer<String, String> producer;

        Transactional(int key, String topic) {
            this.key = key;
            this.topic = topic;
            random = new Random(key);
        }

        void run() {
            for (int number = 0; !ending; number++) {
                one(number);
                pause(random.nextInt(100));
            }
            if (producer != null) {
                producer.close(Duration.ofSeconds(10));
            }
        }

        private void one(int number) {
            if (producer == null) {
                beginAnew();
            }
            TreeMap<Integer, Integer> counts = drawn();
            StringBuilder parts = new StringBuilder();
            counts.forEach((partition, count) -> parts.append(" ").append(partition).append(":").append(count));
            tell("begun " + key + " " + number + parts);
            boolean asked = false;
            try {
                producer.beginTransaction();
                send(number, counts);
                if (random.nextDouble() >= aborted) {
                    asked = true;
                    again(producer::commitTransaction);
                    tell("committed " + key + " " + number);
                    return;
                }
            } catch (KafkaException error) {
                handled(error);
            }
            try {
                again(producer::abortTransaction);
                tell("aborted " + key + " " + number);
            } catch (KafkaException error) { // it is of no use any more: fenced, for example
                handled(error);
                producer.close(Duration.ZERO);
                producer = null;
                beginAnew(); // which settles what the old one left
                tell((asked ? "unknown " : "aborted ") + key + " " + number);
            }
        }

        private TreeMap<Integer, Integer> drawn() {
            List<Integer> all = new ArrayList<>();
            for (int partition = 0; partition < partitions; partition++) {
                all.add(partition);
            }
            Collections.shuffle(all, random);
            TreeMap<Integer, Integer> counts = new TreeMap<>();
            all.subList(0, Math.min(partitions, 2 + random.nextInt(3))).forEach(one -> counts.put(one, 1 + random.nextInt(3)));
            return counts;
        }

        private void send(int number, TreeMap<Integer, Integer> counts) {
            TreeMap<Integer, Integer> written = new TreeMap<>();
            List<Integer> order = new ArrayList<>();
            counts.forEach((partition, count) -> order.addAll(Collections.nCopies(count, partition)));
            Collections.shuffle(order, random);
            for (int partition : order) {
                int index = written.merge(partition, 1, Integer::sum) - 1;
                producer.send(new ProducerRecord<>(topic, partition, "" + key, key + " " + number + " " + index));
                pause(random.nextInt(4) == 0 ? 20 : 0);
            }
        }

        private void beginAnew() {
            while (producer == null) {
                KafkaProducer<String, String> next = producer(
                    key, "transactional.id", "java-" + key, "transaction.timeout.ms", timeoutMs, "max.block.ms", 10_000);
                try {
                    again(next::initTransactions);
                    producer = next;
                } catch (KafkaException error) {
                    handled(error);
                    if (isTooLate()) {
                        throw new IllegalStateException("too late", error);
                    }
                    next.close(Duration.ZERO);
                    pause(200);
                }
            }
        }

        /** After a timeout the same call is the one that is allowed. */
        private void again(Runnable call) {
            while (true) {
                try {
                    call.run();
                    return;
                } catch (TimeoutException error) {
                    handled(error);
                    if (isTooLate()) {
                        throw new IllegalStateException("too late", error);
                    }
                }
            }
        }

        private void handled(KafkaException error) {
            tell("handled " + key + " " + error.getClass().getSimpleName());
        }
    }
}
