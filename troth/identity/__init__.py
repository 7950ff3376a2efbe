"""Who a peer is: files of TLS, and the name that a certificate gives. Pure decisions, and thin shells around gRPC's objects."""
