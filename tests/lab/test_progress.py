"""What is seen of runs while they train: bars on a terminal, else lines, and the summary."""

import contextlib
import io
import os
import re

import pytest

from lab.progress import Display, print_summary
from lab.settings import Experiment, Job

LONG = "exp_07_run_01_coordconf_localistation_coordconf_classifier"


@contextlib.contextmanager
def on_a_terminal(n_epochs):
    """A display on a terminal that does not know its width, and a function that reads what is shown since last time."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "w") as terminal:
        assert os.get_terminal_size(theirs).columns == 0
        display = Display(n_epochs, terminal)
        yield display, lambda: b"".join(iter(lambda: screen.read(10_000) or b"", b"")).decode()
        display.close()


def eager(display):
    """Let the bars be drawn at every change."""
    for bar in (*display.bars.values(), display.total):
        bar.mininterval = bar.miniters = 0
        bar.dynamic_miniters = False


def after(accuracy):
    """What is said of an epoch of a network without a transformer."""
    return {"test_accuracy": accuracy, "lost_epoch": None}


def test_a_bar_for_the_run_with_its_accuracy_and_one_for_all_with_the_time_left():
    with on_a_terminal(20) as (display, shown):
        display.start(LONG, 10)
        eager(display)
        display.progress(LONG, 10, 6, 1, 2, after(98.5))
        screen = shown()
        assert re.search(r"all +28% \|.*\| \d\d:\d\d<\d\d:\d\d", screen)
        assert re.search(rf"{LONG[:44]} +55% \|.*98\.50 %", screen)
        assert LONG[:45] not in screen
        display.progress(LONG, 10, 7, 1, 2, None)
        assert re.search(r"65% \|(?!.*98\.50)", shown())


@pytest.mark.parametrize("status", ["finished", "failed: no images"])
def test_an_ended_run_counts_whole_and_its_bar_goes(status):
    """Whether it has been trained here, went on from epoch 8, failed, or was on a cluster."""
    with on_a_terminal(30) as (display, _):
        display.start("one", 10)
        display.start("other", 10)
        display.progress("one", 10, 8, 0, 2, after(90.0))
        assert display.total.n == 7
        display.progress("other", 10, 1, 1, 2, None)
        assert display.total.n == 7.5
        for number, name in enumerate(("one", "other", "on a cluster"), 1):
            display.end(name, 10, status)
            assert display.total.n == 10 * number + (0.5 if number == 1 else 0)
            assert name not in display.bars
        assert display.total.n == display.total.total


def lines(stream):
    """Return the lines without the time of day that each begins with."""
    found = [re.fullmatch(r"\d\d:\d\d:\d\d (.*)", line) for line in stream.getvalue().splitlines()]
    return [match[1] for match in found]


def test_where_there_is_no_terminal_lines_tell_now_and_then():
    stream = io.StringIO()
    display = Display(20, stream, seconds_between_lines=-1)
    display.start("one", 10)
    display.progress("one", 10, 1, 50, 100, None)
    display.progress("one", 10, 2, 0, 100, after(97.123))
    display.end("one", 10, "finished")
    display.end("on a cluster", 10, "failed: no images")
    display.close()
    assert lines(stream) == [
        "one: started",
        "one: epoch 1 of 10",
        "one: epoch 2 of 10, 97.12 %",
        "one: finished",
        "on a cluster: failed: no images",
    ]


def test_lines_are_rare(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("lab.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    display = Display(20, stream)
    for name in ("one", "other"):
        display.start(name, 10)
    for _ in range(100):
        now[0] += 1
        display.progress("one", 10, 1, 0, 100, None)
    display.progress("other", 10, 3, 0, 100, after(50.0))
    assert lines(stream)[2:] == ["one: epoch 1 of 10"] * 3 + ["other: epoch 3 of 10, 50.00 %"]


def test_the_summary_has_a_line_for_every_run(capsys):
    jobs = [Job(Experiment(f"exp_0{n}", "x" * n, "Net", 1, ""), 1, 1) for n in (1, 2, 3)]
    jobs[0].conclude(
        "finished", {"test_accuracy": 98.765, "test_correct": 9876, "test_total": 10_000, "lost_epoch": None}
    )
    jobs[1].conclude("failed", "no images")
    print_summary(jobs)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "experiment         accuracy  correct           status",
        "exp_01_run_01_x     98.77 %  9876 of 10000     finished",
        "exp_02_run_01_xx                               failed: no images",
        "exp_03_run_01_xxx                              not started",
    ]
