"""Many runs on this machine, by workers: processes to which the parent talks through pipes.

The parent pickles calls into the standard input of a worker and reads from its standard output what it says of them.
A worker makes many calls, one after another, so that it rarely imports torch. A worker exits when its stdin closes, so
it never outlives its parent. One that dies costs the run that it was training: the next run gets a new worker.
"""

import os
import pickle
import queue
import subprocess
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from functools import partial

from lab.settings import longest_first

CALLS_OF_A_WORKER = 50  # then a new worker: the graph for TensorBoard (torch.jit.trace) keeps 1 MB of each run


class WorkerDied(Exception):
    """A worker has ended without an answer, or could not be started; the message says how."""


class Worker:
    """A process that makes calls; `command` must lead to `serve`. Raise WorkerDied if it cannot be started."""

    def __init__(self, command):
        # A session of its own: Ctrl-C reaches all processes of the terminal, and only the parent shall act on it.
        self.calls = 0
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        try:
            self.process = subprocess.Popen(command, **pipes, start_new_session=True)
        except OSError as error:
            raise WorkerDied(f"its process cannot be started ({error})") from None

    def call(self, name, *arguments, on_progress=None):
        """Let the worker call one of its functions and return its outcome, (kind, value). Raise WorkerDied."""
        self.calls += 1
        try:
            pickle.dump((name, arguments), self.process.stdin)
            self.process.stdin.flush()
            while True:
                kind, value = pickle.load(self.process.stdout)
                if kind != "progress":
                    return kind, value
                on_progress(*value)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # ValueError: `end` has closed the pipes
            code = self.process.wait()
            end([self])
            raise WorkerDied(f"its process ended with exit code {code}") from None


def serve(**functions):
    """Make the calls that arrive on the standard input; the main function of a worker's process.

    Each function takes the arguments of its call and `on_progress`, and returns (kind, value).
    """
    stream, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not get between the answers
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nor may anybody else read the calls
    calls = queue.SimpleQueue()

    def answer(kind, value):
        try:
            pickle.dump((kind, value), answers)
            answers.flush()
        except OSError:  # nobody listens any more
            os._exit(1)

    def receive():
        try:
            while True:
                calls.put(pickle.load(stream))
        except (EOFError, pickle.UnpicklingError):  # the parent has ended, maybe while it wrote
            pass
        except Exception:
            traceback.print_exc()
        os._exit(1)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        name, arguments = calls.get()
        try:
            outcome = functions[name](*arguments, on_progress=lambda *progress: answer("progress", progress))
        except Exception as error:  # for lack of memory, say
            outcome = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
        answer(*outcome)


def run_all(command, jobs, options, display, worker=None):
    """Train the jobs with `options.jobs` workers, the costliest first; set the status of each.

    worker: one that is there already and has nothing else to do.
    """
    waiting = iter(longest_first(jobs))  # the threads share it: each takes the next job
    workers, events, n_threads = {worker} - {None}, queue.SimpleQueue(), min(options.jobs, len(jobs))

    def work(worker):
        """Let a worker train one job after another, in a thread of its own; the main thread does all the rest."""
        for job in waiting:
            events.put(partial(start, job))
            try:
                if worker and worker.calls >= CALLS_OF_A_WORKER:
                    end([worker])
                    worker = None
                if worker is None:
                    worker = Worker(command)
                    workers.add(worker)
                outcome = worker.call("train", job, options, on_progress=partial(report, job))
            except WorkerDied as error:
                outcome, worker = ("failed", str(error)), None
            events.put(partial(conclude, job, *outcome))
        end({worker} - {None})  # no run is left for it: give its memory to the others
        events.put(None)

    def start(job):
        job.status = "interrupted"  # unless it comes to its end
        display.start(job.name, job.n_epochs)

    def report(job, *progress):
        events.put(partial(display.progress, job.name, job.n_epochs, *progress))

    def conclude(job, *outcome):
        job.conclude(*outcome)
        display.end(job.name, job.n_epochs, job.status)

    try:
        for first in [worker] + [None] * (n_threads - 1):
            threading.Thread(target=work, args=(first,), daemon=True).start()
        while n_threads:
            if event := events.get():
                event()
            else:
                n_threads -= 1
    finally:  # after an interrupt the workers are busy; they have nothing to do otherwise
        deque(waiting, maxlen=0)  # nothing is started any more
        end(workers)


def end(workers):
    """End workers: at once if they do nothing, else after a second at the latest."""
    processes = [worker.process for worker in list(workers)]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 1
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0, deadline - time.monotonic()))
        process.kill()
        with suppress(subprocess.TimeoutExpired, OSError):  # OSError: nobody reads what was not yet written
            process.wait(timeout=1)
            process.stdout.close()
            process.stdin.close()
