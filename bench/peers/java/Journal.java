import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/** A file of lines that are synced before they count; one sync serves all that wait for it, as everywhere in what is compared. */
final class Journal {
    private final FileChannel channel;
    private StringBuilder waiting = new StringBuilder();
    private long batch;
    private long synced;
    private boolean syncing;

    Journal(Path file) throws IOException {
        channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }

    /** Append a line, and come back when it is on the disk. */
    void append(String line) throws IOException, InterruptedException {
        long mine;
        synchronized (this) {
            waiting.append(line).append('\n');
            mine = batch;
            while (syncing && synced <= mine) {
                wait();
            }
            if (synced > mine) {
                return;
            }
            syncing = true;
        }
        sync();
    }

    /** How many syncs there were. */
    synchronized long syncs() {
        return synced;
    }

    private void sync() throws IOException {
        ByteBuffer bytes;
        synchronized (this) {
            bytes = ByteBuffer.wrap(waiting.toString().getBytes(StandardCharsets.UTF_8));
            waiting = new StringBuilder();
            batch++;
        }
        while (bytes.hasRemaining()) {
            channel.write(bytes);
        }
        channel.force(false);
        synchronized (this) {
            synced++;
            syncing = false;
            notifyAll();
        }
    }
}
