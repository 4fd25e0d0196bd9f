// Reads each line of a golden file (message, version, bytes as hex) with Apache Kafka's own codec and writes it again: all must come
// out unchanged.   java -cp "$PEER_DIR/libs/*" CheckWithKafka.java kafka-4.3.1.txt
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HexFormat;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;

public class CheckWithKafka {
    static final String[] PACKAGES = {
        "org.apache.kafka.common.message.",
        "org.apache.kafka.common.metadata.",
        "org.apache.kafka.coordinator.group.generated.",
        "org.apache.kafka.coordinator.transaction.generated.",
        "org.apache.kafka.coordinator.share.generated.",
        "org.apache.kafka.server.log.remote.metadata.storage.generated.",
        "org.apache.kafka.storage.internals.log.",
        "org.apache.kafka.raft.generated.",
    };

    public static void main(String[] arguments) throws Exception {
        int same = 0;
        for (String line : Files.readAllLines(Path.of(arguments[0]))) {
            String[] words = line.split(" ", -1);
            byte[] bytes = HexFormat.of().parseHex(words[2]);
            if (!Arrays.equals(through(words[0], Short.parseShort(words[1]), bytes), bytes)) {
                throw new AssertionError("Kafka writes it differently: " + line);
            }
            same++;
        }
        System.out.println(same + " messages are the same to Kafka");
    }

    static byte[] through(String name, short version, byte[] bytes) throws Exception {
        Message message = (Message) find(name).getDeclaredConstructor().newInstance();
        ByteBuffer in = ByteBuffer.wrap(bytes);
        message.read(new ByteBufferAccessor(in), version);
        if (in.hasRemaining()) {
            throw new AssertionError(name + " leaves " + in.remaining() + " bytes");
        }
        ObjectSerializationCache sizes = new ObjectSerializationCache();
        ByteBuffer out = ByteBuffer.allocate(message.size(sizes, version));
        message.write(new ByteBufferAccessor(out), sizes, version);
        return out.array();
    }

    static Class<?> find(String name) throws ClassNotFoundException {
        for (String prefix : PACKAGES) {
            for (String suffix : new String[] {"", "Data"}) {
                try {
                    return Class.forName(prefix + name + suffix);
                } catch (ClassNotFoundException e) {
                    // the next one
                }
            }
        }
        throw new ClassNotFoundException(name);
    }
}
