import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * The duplicate rule of docs/consuming.md, exact: prints each outcome's request id once, in log order.
 *
 * <pre>
 *   java -cp 'kafka/libs/*' Duplicates.java 127.0.0.1:9092 outcomes.batch 10
 *   java -cp 'kafka/libs/*' Duplicates.java --check duplicates.txt
 * </pre>
 *
 * One for each partition that you read.
 */
public class Duplicates {
    private static final Pattern SOURCE = Pattern.compile("(.+/\\d+/\\d+)/(\\d+) ([1-9]\\d*) [0-9a-f]{1,16}");

    /** Everything below the floor is a copy; bit n says whether floor + n was seen. */
    private static final class Window {
        long floor;
        BitSet seen = new BitSet();
    }

    private final Map<String, Window> windows = new HashMap<>();

    public boolean isFirst(String header) {
        var source = SOURCE.matcher(header == null ? "" : header);
        if (!source.matches()) {
            return true;
        }
        long offset = Long.parseLong(source.group(2));
        long risen = offset + 1 - Long.parseLong(source.group(3));
        Window window = windows.computeIfAbsent(source.group(1), place -> new Window());
        if (risen > window.floor) {
            int passed = (int) Math.min(risen - window.floor, window.seen.length());
            window.seen = window.seen.get(passed, Math.max(passed, window.seen.length()));
            window.floor = risen;
        }
        if (offset < window.floor) {
            return false;
        }
        // At most as far above the floor as the writer's window is wide.
        int bit = Math.toIntExact(offset - window.floor);
        boolean first = !window.seen.get(bit);
        window.seen.set(bit);
        return first;
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 2 && args[0].equals("--check")) {
            check(Path.of(args[1]));
        } else if (args.length == 3) {
            read(args[0], args[1], Integer.parseInt(args[2]));
        } else {
            System.err.println("usage: Duplicates BOOTSTRAP TOPIC COUNT | --check FILE");
            System.exit(2);
        }
    }

    private static void check(Path file) throws Exception {
        var duplicates = new Duplicates();
        var name = "";
        int count = 0;
        for (String line : Files.readAllLines(file)) {
            if (line.startsWith("## ")) {
                duplicates = new Duplicates();
                name = line.substring(3);
            } else if (!line.isEmpty() && !line.startsWith("#")) {
                String[] words = line.split("\t");
                String found = duplicates.isFirst(words[1]) ? "first" : "copy";
                if (!found.equals(words[0])) {
                    System.err.printf("%s: `%s` is %s, not %s%n", name, words[1], words[0], found);
                    System.exit(1);
                }
                count++;
            }
        }
        System.out.println(count + " verdicts agree");
    }

    private static void read(String bootstrap, String topic, int count) {
        var settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", topic + "-java-reader");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        var partitions = new HashMap<Integer, Duplicates>();
        var until = System.nanoTime() + Duration.ofSeconds(60).toNanos();
        int left = count;
        var bytes = new ByteArrayDeserializer();
        try (var consumer = new KafkaConsumer<byte[], byte[]>(settings, bytes, bytes)) {
            consumer.subscribe(List.of(topic));
            while (left > 0) {
                if (System.nanoTime() > until) {
                    System.err.printf("%d of %d outcomes did not come within 60 s%n", left, count);
                    System.exit(1);
                }
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    var duplicates = partitions.computeIfAbsent(record.partition(), p -> new Duplicates());
                    if (left > 0 && duplicates.isFirst(text(record.headers().lastHeader("source")))) {
                        System.out.println(text(record.headers().lastHeader("request_id")));
                        left--;
                    }
                }
            }
        }
    }

    private static String text(Header header) {
        return header == null || header.value() == null ? null : new String(header.value(), StandardCharsets.UTF_8);
    }
}
