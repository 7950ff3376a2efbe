"""The history: an index of transactions that are over, beside the log. It is for people; the protocol never asks it."""
