"""The coordinator daemon: decides, remembers, and tells."""
