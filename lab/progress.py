"""What is seen of runs while they train, and the summary at the end."""

import os
import sys
import time

from lab.results import lost_text


class Display:
    """Show a bar for each running run and one for all; plain lines now and then where there is no terminal."""

    def __init__(self, n_epochs, stream=None, seconds_between_lines=30):
        """n_epochs: of all runs together."""
        from tqdm import tqdm  # late: --help and --list answer at once

        self.tqdm = tqdm
        self.stream = stream or sys.stderr
        self.interactive = self.stream.isatty()
        # tqdm hides its bars on a terminal that does not know its width, as some pseudo terminals do.
        self.width = (os.get_terminal_size(self.stream.fileno()).columns or 80) if self.interactive else None
        self.seconds_between_lines = seconds_between_lines
        self.last_line = {}
        self.bars = {}
        self.total = self.new_bar("all", n_epochs) if self.interactive else None

    def new_bar(self, name, n_epochs):
        form = "{desc:<44} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
        style = {"bar_format": form, "file": self.stream, "ncols": self.width, "leave": False, "smoothing": 0.05}
        return self.tqdm(total=n_epochs, desc=name[:44], **style)

    def start(self, name, n_epochs):
        if self.interactive:
            self.bars[name] = self.new_bar(name, n_epochs)
        else:
            self.line(name, "started")

    def progress(self, name, n_epochs, epoch, step, steps, last):
        """Show where a run is; last: what `train.train` says of the epoch before, None in the first."""
        shown = epoch_text(last) if last else ""
        if self.interactive:
            bar, done = self.bars[name], epoch - 1 + step / steps
            self.total.update(done - bar.n)
            bar.set_postfix_str(shown, refresh=False)
            bar.update(done - bar.n)
        elif time.monotonic() - self.last_line[name] > self.seconds_between_lines:
            self.line(name, ", ".join(filter(None, [f"epoch {epoch} of {n_epochs}", shown])))

    def end(self, name, n_epochs, status):
        if self.interactive:
            bar = self.bars.pop(name, None)  # a run on a cluster has none
            self.total.update(n_epochs - (bar.n if bar else 0))
            if bar:
                bar.close()
        else:
            self.line(name, status)

    def line(self, name, text):
        print(f"{time.strftime('%H:%M:%S')} {name}: {text}", file=self.stream, flush=True)
        self.last_line[name] = time.monotonic()

    def close(self):
        for bar in (*self.bars.values(), self.total):
            if bar is not None:
                bar.close()


def epoch_text(entry):
    """Return an epoch's accuracy, the share of the digits that the classifier saw, and whether it has lost them."""
    seen = f"{100 * entry['seen']:.0f} % of the digits seen" if "seen" in entry else ""
    return ", ".join(filter(None, [f"{entry['test_accuracy']:.2f} %", lost_text(entry["lost_epoch"]) or seen]))


def print_summary(jobs):
    width = max(len(job.name) for job in jobs)
    print(f"\n{'experiment':<{width}}  accuracy  correct           status")
    for job in jobs:
        figures, lost = " " * 26, ""
        if job.results:
            lost = lost_text(job.results["lost_epoch"])
            correct = f"{job.results['test_correct']} of {job.results['test_total']}"
            figures = f"{job.results['test_accuracy']:6.2f} %  {correct:<16}"
        print(f"{job.name:<{width}}  {figures}  {', '.join(filter(None, [job.status, lost]))}")
