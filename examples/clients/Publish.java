import java.io.FileInputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Publishes one request as plain JSON and prints its outcome: Apache Kafka's own clients, nothing of Millrace.
 *
 * <pre>
 *   java -cp 'kafka/libs/*' Publish.java 127.0.0.1:9092 acme.requests acme.json.outcomes "Say hello" [FILE]
 * </pre>
 *
 * FILE holds further settings of the clients, such as SASL. The first topic must be bound to a tenant
 * ([topic_bindings]); the second one of its reply_topics, and of its json_reply_topics for JSON to be printed.
 */
public class Publish {
    public static void main(String[] args) throws Exception {
        if (args.length < 4) {
            System.err.println("usage: Publish BOOTSTRAP REQUEST_TOPIC REPLY_TOPIC PROMPT [FILE]");
            System.exit(2);
        }
        var settings = new Properties();
        if (args.length > 4) {
            try (var file = new FileInputStream(args[4])) {
                settings.load(file);
            }
        }
        settings.put("bootstrap.servers", args[0]);
        // The same key is the same request, however often it is published.
        var key = "java-" + UUID.randomUUID();
        publish(settings, args[1], args[2], args[3], key);
        System.out.println(outcome(settings, args[2], key));
    }

    private static void publish(Properties settings, String topic, String replyTopic, String prompt, String key)
            throws Exception {
        var content = "\"" + prompt.replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
        var body = "{\"model\":\"sim-small\",\"messages\":[{\"role\":\"user\",\"content\":" + content + "}]}";
        var strings = new StringSerializer();
        try (var producer = new KafkaProducer<String, String>(settings, strings, strings)) {
            var record = new ProducerRecord<String, String>(topic, body);
            record.headers()
                    .add("content-type", bytes("application/json"))
                    .add("idempotency-key", bytes(key))
                    .add("reply-topic", bytes(replyTopic))
                    .add("labels", bytes("origin=java"));
            producer.send(record).get();
        }
    }

    /** The first record with the request's key is its outcome; copies of it may follow after a crash. */
    private static String outcome(Properties settings, String topic, String key) {
        settings.put("group.id", topic + "-java");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        var until = System.nanoTime() + Duration.ofSeconds(60).toNanos();
        var strings = new StringDeserializer();
        try (var consumer = new KafkaConsumer<String, String>(settings, strings, strings)) {
            consumer.subscribe(List.of(topic));
            while (System.nanoTime() < until) {
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    Header of = record.headers().lastHeader("idempotency-key");
                    if (of != null && new String(of.value(), StandardCharsets.UTF_8).equals(key)) {
                        return record.value();
                    }
                }
            }
        }
        System.err.println("no outcome within 60 s");
        System.exit(1);
        return null;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
