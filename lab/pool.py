"""Many runs on this machine, in processes that the parent calls through pipes.

A worker makes many calls, one after another, so that it rarely imports torch. It ends with its parent, however that
ends. One that dies costs the run that it was training: the next run gets a new worker. (A `ProcessPoolExecutor` would
give up all of its runs.)
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import wait

from lab.settings import longest_first

MAX_CALLS = (
    50  # of a worker, then a new one: drawing the graph for TensorBoard (torch.jit.trace) keeps 1 MB of each run
)


class WorkerDied(Exception):
    """A worker has ended without an answer; the message says how."""


class Worker:
    """A process that makes calls, one after another; as a context it is ended at the end. Raise OSError."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.n_calls = 0
        # Ctrl-C reaches all processes of the terminal; a worker, which inherits this, leaves it to the parent.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        theirs.close()

    def send(self, function, *arguments):
        """Let the worker call function(*arguments, on_progress=...), which returns (kind, content)."""
        self.n_calls += 1
        with suppress(OSError):  # if the worker has died, `receive` will say so
            self.connection.send((function, arguments))

    def receive(self):
        """Return ("progress", what the function reports) or, at last, what it returns. Raise WorkerDied."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise WorkerDied(f"its process ended with exit code {self.process.exitcode}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end([self])


def serve(connection):
    """Make the calls that arrive; the main function of a worker's process."""
    threading.Thread(target=end_with_parent, daemon=True).start()

    def send(*message):
        try:
            connection.send(message)
        except OSError:  # the parent has ended
            os._exit(1)

    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            os._exit(1)
        try:
            outcome = function(*arguments, on_progress=lambda *progress: send("progress", progress))
        except Exception as error:  # for lack of memory, say
            outcome = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
        send(*outcome)


def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def run_all(train, jobs, options, display, worker):
    """Train jobs in `options.jobs` processes, the longest first; set the status of each.

    train: called there as train(job, options, on_progress=...); returns ("finished", results) or ("failed", why).
    worker: one that has nothing else to do.
    """
    waiting, idle, busy = deque(longest_first(jobs)), [worker], {}

    def conclude(job, kind, content):
        job.conclude(kind, content)
        display.end(job.name, job.n_epochs, job.status)

    def start(job):
        job.status = "interrupted"  # unless it comes to its end
        display.start(job.name, job.n_epochs)
        try:
            worker = idle.pop() if idle else Worker()
        except OSError as error:
            conclude(job, "failed", f"its process cannot be started ({error})")
            return
        busy[worker.connection] = worker, job
        worker.send(train, job, options)

    def listen(worker, job):
        try:
            kind, content = worker.receive()
        except WorkerDied as error:
            kind, content = "failed", str(error)
        if kind == "progress":
            display.progress(job.name, job.n_epochs, *content)
            return
        del busy[worker.connection]
        if waiting and worker.n_calls < MAX_CALLS and worker.process.is_alive():
            idle.append(worker)
        else:
            end([worker])  # it leaves its memory to the others
        conclude(job, kind, content)

    try:
        while waiting or busy:
            while waiting and len(busy) < options.jobs:
                start(waiting.popleft())
            for connection in wait(list(busy)):
                listen(*busy[connection])
    finally:  # after an interrupt some are busy
        end([*idle, *(worker for worker, _ in busy.values())])


def end(workers):
    """End workers: at once if they do nothing, else after a second at the latest."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + 1
    for worker in workers:
        worker.process.join(max(0, deadline - time.monotonic()))
    for worker in workers:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
