import io.seata.tm.TMClient;
import io.seata.tm.api.GlobalTransaction;
import io.seata.tm.api.GlobalTransactionContext;
import io.seata.core.context.RootContext;
import io.seata.core.model.GlobalStatus;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.BufferedReader;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.Socket;
import java.util.Arrays;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Callers of Seata in a closed loop: java Load PORT PORT
 *
 * For each line "CALLERS WARM_SECONDS SECONDS" of the standard input it says "began" when it has warmed up, "ended" when it has
 * measured, and then "DONE FAILED ALL SECONDS P50 P99 P999": FAILED of those measured, ALL committed since the callers began,
 * latencies in milliseconds. A transaction counts when Seata says that it is committed, which it says after both services.
 */
public final class Load {
    private final int[] ports;
    private final AtomicLong all = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private volatile boolean measuring;
    private volatile boolean ending;

    private Load(int[] ports) {
        this.ports = ports;
    }

    /** A connection to a service. */
    private static final class Connection {
        private final DataInputStream in;
        private final DataOutputStream out;

        Connection(int port) throws IOException {
            Socket socket = new Socket(InetAddress.getLoopbackAddress(), port);
            socket.setTcpNoDelay(true);
            in = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
            out = new DataOutputStream(new BufferedOutputStream(socket.getOutputStream()));
        }

        void attempt(String xid) throws IOException {
            out.writeUTF(xid);
            out.flush();
            in.readLong();
        }
    }

    private final class Caller extends Thread {
        private long[] latencies = new long[1 << 14];
        private int count;

        @Override
        public void run() {
            try {
                Connection[] services = new Connection[ports.length];
                for (int service = 0; service < ports.length; service++) {
                    services[service] = new Connection(ports[service]);
                }
                while (!ending) {
                    once(services);
                }
            } catch (Exception broken) {
                failed.incrementAndGet();
                broken.printStackTrace();
            }
        }

        private void once(Connection[] services) throws Exception {
            long began = System.nanoTime();
            GlobalTransaction transaction = GlobalTransactionContext.createNew();
            transaction.begin(30_000, "bench");
            for (Connection service : services) {
                service.attempt(transaction.getXid());
            }
            transaction.commit();
            boolean committed = transaction.getLocalStatus() == GlobalStatus.Committed;
            RootContext.unbind();
            long took = System.nanoTime() - began;
            if (committed) {
                all.incrementAndGet();
            }
            if (measuring) {
                if (!committed) {
                    failed.incrementAndGet();
                }
                if (count == latencies.length) {
                    latencies = Arrays.copyOf(latencies, 2 * count);
                }
                latencies[count++] = took;
            }
        }
    }

    private void measure(int callers, double warm, double seconds) throws InterruptedException {
        all.set(0);
        failed.set(0);
        ending = false;
        Caller[] threads = new Caller[callers];
        for (int caller = 0; caller < callers; caller++) {
            threads[caller] = new Caller();
            threads[caller].start();
        }
        Thread.sleep((long) (warm * 1000));
        System.out.println("began");
        measuring = true;
        long began = System.nanoTime();
        Thread.sleep((long) (seconds * 1000));
        measuring = false;
        double took = (System.nanoTime() - began) / 1e9;
        System.out.println("ended");
        ending = true;
        int total = 0;
        for (Caller thread : threads) {
            thread.join();
            total += thread.count;
        }
        long[] latencies = new long[total];
        int filled = 0;
        for (Caller thread : threads) {
            System.arraycopy(thread.latencies, 0, latencies, filled, thread.count);
            filled += thread.count;
        }
        Arrays.sort(latencies);
        System.out.printf("%d %d %d %.6f %.4f %.4f %.4f%n", total, failed.get(), all.get(), took,
                at(latencies, 0.5), at(latencies, 0.99), at(latencies, 0.999));
    }

    private static double at(long[] sorted, double share) {
        return sorted.length == 0 ? Double.NaN : sorted[Math.min(sorted.length - 1, (int) (sorted.length * share))] / 1e6;
    }

    public static void main(String[] arguments) throws Exception {
        TMClient.init("load", "bench");
        Load load = new Load(Arrays.stream(arguments).mapToInt(Integer::parseInt).toArray());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            load.measure(Integer.parseInt(words[0]), Double.parseDouble(words[1]), Double.parseDouble(words[2]));
        }
        System.exit(0);
    }
}
