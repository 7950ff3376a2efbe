"""One call of a program at `forked`: what this process gets, the fork gets, and as the fork ends, so does this. (It starts without
site-packages, and imports little.)"""

import json
import os
import resource
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect(f"\0{sys.argv[1]}")
    asked = {"command": sys.argv[2:], "directory": os.getcwd(), "environment": dict(os.environ)}
    asked["file_bytes_max"] = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: connection.send(bytes([received])))
    socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
    status = int(connection.recv(16) or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
