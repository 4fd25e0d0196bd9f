import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.StringSerializer;
import java.util.*;
public class Golden {
  static Map<String,Object> base(String server) { Map<String,Object> m = new HashMap<>(); m.put("bootstrap.servers", server); m.put("key.serializer", StringSerializer.class); m.put("value.serializer", StringSerializer.class); m.put("acks","all"); return m; }
  public static void main(String[] a) throws Exception {
    String s = a[0];
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", s))) {
      List<NewTopic> ts = new ArrayList<>();
      for (String c : new String[]{"plain","gzip","snappy","lz4","zstd","txn","rolled"}) {
        Map<String,String> conf = new HashMap<>();
        if (c.equals("rolled")) { conf.put("internal.segment.bytes","1500"); conf.put("index.interval.bytes","200"); conf.put("message.timestamp.type","LogAppendTime"); }
        if (c.equals("txn")) { conf.put("internal.segment.bytes","2500"); conf.put("index.interval.bytes","300"); }
        ts.add(new NewTopic(c, 1, (short)1).configs(conf));
      }
      admin.createTopics(ts).all().get();
    }
    for (String c : new String[]{"plain","gzip","snappy","lz4","zstd","rolled"}) {
      Map<String,Object> m = base(s); m.put("compression.type", c.equals("plain")||c.equals("rolled") ? "none" : c); m.put("linger.ms", 50);
      if (c.equals("plain")) m.put("enable.idempotence", false);
      try (KafkaProducer<String,String> p = new KafkaProducer<>(m)) {
        for (int b = 0; b < (c.equals("rolled") ? 20 : 3); b++) { for (int i = 0; i < 5; i++) p.send(new ProducerRecord<>(c, 0, 1700000000000L + b*1000 + i, "k"+i, c+" value "+b+" "+i)); p.flush(); }
      }
    }
    Map<String,Object> m = base(s); m.put("transactional.id","golden"); 
    Map<String,Object> m2 = base(s); m2.put("transactional.id","golden2"); 
    try (KafkaProducer<String,String> p = new KafkaProducer<>(m); KafkaProducer<String,String> q = new KafkaProducer<>(m2)) {
      p.initTransactions(); q.initTransactions();
      for (int t = 0; t < 12; t++) {
        p.beginTransaction(); q.beginTransaction();
        for (int i = 0; i < 3; i++) { p.send(new ProducerRecord<>("txn", 0, "p"+t, "p "+t+" "+i)); }
        p.flush();
        for (int i = 0; i < 2; i++) { q.send(new ProducerRecord<>("txn", 0, "q"+t, "q "+t+" "+i)); }
        q.flush();
        if (t % 3 == 1) p.abortTransaction(); else p.commitTransaction();
        if (t % 4 == 2) q.abortTransaction(); else q.commitTransaction();
      }
      p.beginTransaction(); p.send(new ProducerRecord<>("txn", 0, "open", "left open")); p.flush();
      System.out.println("done, leaving one open");
      Runtime.getRuntime().halt(0);
    }
  }
}
