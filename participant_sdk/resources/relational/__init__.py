"""Databases with two-phase commit of their own as resources: what is the same for PostgreSQL and MariaDB."""
