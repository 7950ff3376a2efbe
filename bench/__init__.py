"""The benchmark: Troth, a bare gRPC echo and a textbook two-phase commit, side by side in one run. See `scripts/bench`."""
