"""The gRPC surface of the daemon: it checks, enqueues, and passes answers on. No rule of the protocol lives here."""
