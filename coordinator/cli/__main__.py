"""`python -m coordinator.cli` is `troth`."""

from coordinator.cli import main

if __name__ == "__main__":
    main()
