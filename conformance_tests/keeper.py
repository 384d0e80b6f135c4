"""Runs a command, and ends it with every process that it has started when the other end of a socket closes.

``python -I -S keeper.py SOCKET WORD …``; SOCKET is the number of an open one, over which it says ``started PID`` or
``failed ERRNO``, and ``ended STATUS`` when the command has ended by itself.

It is a process of its own so that all processes below it come from the command. On Linux it adopts the processes that the
command's processes leave behind (prctl PR_SET_CHILD_SUBREAPER), so that none escapes by fork or setsid. It kills only its own
children, again and again until it has none: their children become its own, and the id of a process is not used again before its
parent has waited for it. The socket closes with the runner however that ends, by SIGKILL as well. On systems without such an
adoption only the process group is ended, and processes that have left the group stay.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 5  # seconds; what is still there then may not be killed by this user


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    adopts = sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    command, failure = start(sys.argv[2:])
    for standard in range(3):  # so that the command's ends of the pipes close with the command
        os.dup2(os.open(os.devnull, os.O_RDWR), standard)
    with contextlib.suppress(OSError):  # the runner is gone; what the command has started is ended below
        control.sendall(b"failed %d\n" % failure if failure else b"started %d\n" % command)
        while control not in select.select([control, woken], [], [])[0]:
            os.read(woken, 4096)
            for pid, status in reaped():
                if pid == command:
                    control.sendall(b"ended %d\n" % os.waitstatus_to_exitcode(status))
                    if not adopts:
                        end_group(command)
    if not adopts:
        end_group(command)
    end_children()


def start(words):
    """Starts the command. Returns the id of its process, and 0 or the number of the error with which it did not start."""
    reads, writes = os.pipe()  # closed by the command's start
    command = os.fork()
    if command == 0:
        os.setsid()
        # Python ignores two of them, and its children would inherit that.
        for number in signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD:
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(words[0], words)
        except OSError as error:
            os.write(writes, b"%d" % error.errno)
        os._exit(127)
    os.close(writes)
    return command, int(os.read(reads, 20) or 0)


def reaped():
    """Each child that has ended, with its status."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found


def children():
    """The processes whose parent is this one, by /proc; none where the system has none."""
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    yield int(name)


def end_group(command):
    with contextlib.suppress(OSError):
        os.killpg(command, signal.SIGKILL)


def end_children():
    """Kills until nothing is left."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for child in children():
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        for _ in reaped():
            pass
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        time.sleep(0.001)


if __name__ == "__main__":
    main()
