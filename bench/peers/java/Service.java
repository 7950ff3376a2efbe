import io.seata.core.model.BranchType;
import io.seata.rm.DefaultResourceManager;
import io.seata.rm.RMClient;
import io.seata.rm.tcc.TCCResource;
import io.seata.rm.tcc.api.BusinessActionContext;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.concurrent.atomic.AtomicLong;

/**
 * A service that takes part in Seata's transactions by try, confirm and cancel: java Service DIRECTORY NAME SYNCED
 *
 * Callers send the transaction's name over a socket each, and get the branch's number: less than any library for calls costs. An
 * empty name asks for counts: tried, committed, rolled back, synced. SYNCED ("true" or "false") is whether what is tried and what
 * is committed is in a synced journal before it is answered for.
 */
public final class Service {
    private static final String NOTHING = "{\"actionContext\":{}}";
    private final AtomicLong tried = new AtomicLong();
    private final AtomicLong committed = new AtomicLong();
    private final AtomicLong rolledBack = new AtomicLong();
    private final String name;
    private final Journal journal;

    private Service(String name, Journal journal) {
        this.name = name;
        this.journal = journal;
    }

    /** What Seata calls when the transaction commits. */
    public boolean commit(BusinessActionContext context) throws IOException, InterruptedException {
        keep(context.getXid());
        committed.incrementAndGet();
        return true;
    }

    /** What Seata calls when it does not. */
    public boolean rollback(BusinessActionContext context) throws IOException, InterruptedException {
        keep(context.getXid());
        rolledBack.incrementAndGet();
        return true;
    }

    private void keep(String xid) throws IOException, InterruptedException {
        if (journal != null) {
            journal.append(xid);
        }
    }

    private TCCResource resource() throws NoSuchMethodException {
        TCCResource resource = new TCCResource();
        resource.setActionName(name);
        resource.setAppName(name);
        resource.setTargetBean(this);
        resource.setCommitMethodName("commit");
        resource.setCommitMethod(Service.class.getMethod("commit", BusinessActionContext.class));
        resource.setRollbackMethodName("rollback");
        resource.setRollbackMethod(Service.class.getMethod("rollback", BusinessActionContext.class));
        resource.setCommitArgsClasses(new Class<?>[] {BusinessActionContext.class});
        resource.setRollbackArgsClasses(new Class<?>[] {BusinessActionContext.class});
        resource.setPhaseTwoCommitKeys(new String[] {null});
        resource.setPhaseTwoRollbackKeys(new String[] {null});
        return resource;
    }

    private long attempt(String xid) throws Exception {
        long branch = DefaultResourceManager.get().branchRegister(BranchType.TCC, name, null, xid, NOTHING, null);
        keep(xid);
        tried.incrementAndGet();
        return branch;
    }

    private void serve(Socket socket) {
        try (socket;
                DataInputStream in = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
                DataOutputStream out = new DataOutputStream(new BufferedOutputStream(socket.getOutputStream()))) {
            socket.setTcpNoDelay(true);
            while (true) {
                String xid = in.readUTF();
                if (xid.isEmpty()) {
                    long synced = journal == null ? 0 : journal.syncs();
                    for (long count : new long[] {tried.get(), committed.get(), rolledBack.get(), synced}) {
                        out.writeLong(count);
                    }
                } else {
                    out.writeLong(attempt(xid));
                }
                out.flush();
            }
        } catch (EOFException end) {
            // The caller has gone.
        } catch (Exception failed) {
            failed.printStackTrace();
        }
    }

    public static void main(String[] arguments) throws Exception {
        Path directory = Path.of(arguments[0]);
        Journal journal = Boolean.parseBoolean(arguments[2]) ? new Journal(directory.resolve("journal")) : null;
        Service service = new Service(arguments[1], journal);
        RMClient.init(arguments[1], "bench");
        DefaultResourceManager.get().registerResource(service.resource());
        try (ServerSocket listening = new ServerSocket(0, 1024, InetAddress.getLoopbackAddress())) {
            Path address = Files.writeString(directory.resolve("address.new"), "127.0.0.1:" + listening.getLocalPort());
            Files.move(address, directory.resolve("address"), StandardCopyOption.ATOMIC_MOVE);
            while (true) {
                Socket socket = listening.accept();
                new Thread(() -> service.serve(socket)).start();
            }
        }
    }
}
