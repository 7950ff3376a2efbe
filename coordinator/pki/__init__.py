"""A private certificate authority for teams without one."""
