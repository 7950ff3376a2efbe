"""Programs of a rehearsal, each a process that is forked from one which has imported everything: it starts in milliseconds.

    python -m tests.docs.forked NAME        serves forks at the abstract socket NAME, until it is ended
    forked_call.py NAME PROGRAM ...         one call: its files, directory, environment, signals and end are the fork's

A page has some ten commands, and a command of its own costs half a second of imports. gRPC may be imported here, but not used: its
threads begin with the first channel or server, which are the forks' own.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from typing import Any

from coordinator.cli import calling, watching
from coordinator.cli.main import COMMANDS
from coordinator.cli.main import run as troth
from tests.docs import rehearsal

MESSAGE_BYTES_MAX = 1 << 20
PROGRAMS = {"troth": troth, "rehearse": rehearsal.run, "sqlite3": rehearsal.sqlite}


def become(asked: dict[str, Any], files: list[int]) -> None:
    """Be the program that was asked for; never returns."""
    status = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.chdir(asked["directory"])
        resource.setrlimit(resource.RLIMIT_FSIZE, asked["file_bytes_max"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        program, *arguments = asked["command"]
        sys.argv = [program, *arguments]
        status = PROGRAMS[program](arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)


class Forks:
    """The forks that run, each with the connection of who asked for it."""

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(f"\0{name}")
        self._listening.listen(64)
        self._selector.register(self._listening, selectors.EVENT_READ, self._begin)

    def serve(self) -> None:
        """Until this process is ended."""
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _begin(self) -> None:
        connection, _ = self._listening.accept()
        message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, 3)
        pid = os.fork()
        if pid == 0:
            self._listening.close()
            connection.close()
            become(json.loads(message), files)
        for file in files:
            os.close(file)
        ended = os.pidfd_open(pid)
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._end(pid, ended, connection))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._signal(pid, connection))

    def _signal(self, pid: int, connection: socket.socket) -> None:
        """Pass a signal on. Who asked and is gone was killed, and so is the fork."""
        number = connection.recv(1)
        os.kill(pid, number[0] if number else signal.SIGKILL)
        if not number:
            self._selector.unregister(connection)

    def _end(self, pid: int, ended: int, connection: socket.socket) -> None:
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(ended)
        os.close(ended)
        if connection.fileno() in self._selector.get_map():
            self._selector.unregister(connection)
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        connection.close()


IMPORTED = (*COMMANDS.values(), calling, watching)
"""Each command is imported with the first use of it, which would be each fork's own."""

if __name__ == "__main__":
    forks = Forks(sys.argv[1])
    gc.freeze()
    print("serving", flush=True)  # noqa: T201 - whoever started it waits for this
    forks.serve()
