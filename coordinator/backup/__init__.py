"""Backups of logs that are files: taken while their processes run, put back while they do not."""
