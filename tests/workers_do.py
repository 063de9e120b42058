"""What the workers of test_pool.py do. It imports no torch, so that they start quickly."""

import os
import signal
import sys
import time


def prepare(options, jobs, on_progress=None):
    return "prepared", (options, jobs, ["a line"])


def train(job, options, on_progress):
    """Do what the question of the job's experiment says."""
    what = job.experiment.question
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "leaves":
        os._exit(7)
    elif what == "raises":
        raise ValueError("a bug")
    elif what == "fails":
        return "failed", "no images"
    elif what == "reads":
        assert sys.stdin.read() == ""
    elif what == "cannot be sent":
        return "finished", {"results": lambda: None}
    elif what in ("waits", "disobeys"):
        if what == "disobeys":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        on_progress(1, 0, 10, None)
        time.sleep(600)
    elif what == "tells":
        while True:
            on_progress(1, 0, 10, None)
    on_progress(1, 5, 10, None)
    return "finished", {"process": os.getpid(), "ignores_ctrl_c": signal.getsignal(signal.SIGINT) == signal.SIG_IGN}
