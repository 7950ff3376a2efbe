"""What participants change: the contract of resources, and those that ship with the SDK."""
