// How tests/golden/kafka-4.3.1 was made: against a fresh one-node Apache Kafka 4.3.1, which was then stopped in order.
//   java -cp 'libs/*' Golden.java 127.0.0.1:9092
// The partitions' directories and the files beside them were copied; lines of internal topics were dropped from the checkpoints.

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Golden {
    static KafkaProducer<String, String> producer(String server, Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(more);
        config.put("bootstrap.servers", server);
        config.put("key.serializer", StringSerializer.class);
        config.put("value.serializer", StringSerializer.class);
        config.put("acks", "all");
        return new KafkaProducer<>(config);
    }

    public static void main(String[] args) throws Exception {
        String server = args[0];
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", server))) {
            List<NewTopic> topics = new ArrayList<>();
            for (String name : List.of("plain", "gzip", "snappy", "lz4", "zstd", "txn", "rolled")) {
                Map<String, String> config = new HashMap<>();
                if (name.equals("rolled")) {
                    config.put("internal.segment.bytes", "1500");
                    config.put("index.interval.bytes", "200");
                    config.put("message.timestamp.type", "LogAppendTime");
                }
                if (name.equals("txn")) {
                    config.put("internal.segment.bytes", "2500");
                    config.put("index.interval.bytes", "300");
                }
                topics.add(new NewTopic(name, 1, (short) 1).configs(config));
            }
            admin.createTopics(topics).all().get();
        }
        for (String name : List.of("plain", "gzip", "snappy", "lz4", "zstd", "rolled")) {
            Map<String, Object> config = new HashMap<>();
            config.put("compression.type", name.equals("plain") || name.equals("rolled") ? "none" : name);
            config.put("linger.ms", 50);
            if (name.equals("plain")) {
                config.put("enable.idempotence", false);
            }
            try (KafkaProducer<String, String> producer = producer(server, config)) {
                for (int batch = 0; batch < (name.equals("rolled") ? 20 : 3); batch++) {
                    for (int i = 0; i < 5; i++) {
                        long timestamp = 1700000000000L + batch * 1000 + i;
                        String value = name + " value " + batch + " " + i;
                        producer.send(new ProducerRecord<>(name, 0, timestamp, "k" + i, value));
                    }
                    producer.flush();
                }
            }
        }
        KafkaProducer<String, String> p = producer(server, Map.of("transactional.id", "golden"));
        KafkaProducer<String, String> q = producer(server, Map.of("transactional.id", "golden2"));
        p.initTransactions();
        q.initTransactions();
        for (int round = 0; round < 12; round++) {
            p.beginTransaction();
            q.beginTransaction();
            for (int i = 0; i < 3; i++) {
                p.send(new ProducerRecord<>("txn", 0, "p" + round, "p " + round + " " + i));
            }
            p.flush();
            for (int i = 0; i < 2; i++) {
                q.send(new ProducerRecord<>("txn", 0, "q" + round, "q " + round + " " + i));
            }
            q.flush();
            if (round % 3 == 1) p.abortTransaction(); else p.commitTransaction();
            if (round % 4 == 2) q.abortTransaction(); else q.commitTransaction();
        }
        p.beginTransaction();
        p.send(new ProducerRecord<>("txn", 0, "open", "left open"));
        p.flush();
        Runtime.getRuntime().halt(0); // closing would abort the open transaction
    }
}
