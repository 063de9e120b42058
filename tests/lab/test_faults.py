"""What goes wrong on a long sweep: kills, full disks, rotten files, two at once, numbers that are not finite.

Real processes on real files. Faults of the data are in test_mnist.py, interrupts and command lines in test_commands.py.
"""

import contextlib
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, prepared
from filelock import FileLock, Timeout
from helpers import TRIAL, Interruption, Unrecorded, forbid, interrupt, run
from hypothesis import given
from hypothesis import strategies as st
from stress_kill import EPOCHS, EXPERIMENTS, assert_same_runs, job, points, stress, wait_until, without_times
from torch import nn

import train
from lab import files, folder
from lab.folder import read_settings
from lab.settings import Recipe, RunError, fingerprint
from run_experiments import ALL, train_job
from stn.checkpoint import save_tensors

FINGERPRINT = 64 * "a"  # the fingerprint of some settings
NAMES = [ALL[exp_id].directory(1) for exp_id in EXPERIMENTS]


@pytest.fixture
def begin(start, idx_folder):
    """Start the short job into a folder."""
    return lambda out, **options: start(job(idx_folder, out, **options))


def finish(data, out):
    """Go on with the short job, here in this process, to the end."""
    rows = [ALL[exp_id] for exp_id in EXPERIMENTS]
    _, (options, jobs, _) = prepared(rows, "--data", data, "--out", out, n_epochs=EPOCHS)
    assert [train_job(job, options)[0] for job in jobs] == ["finished"] * len(jobs)


def test_killed_at_any_moment_the_same_command_ends_with_the_same_bits(
    undisturbed, idx_folder, tmp_path, fault, pytestconfig
):
    kills = pytestconfig.getoption("--kills")
    with fault("SIGKILL to the parent, a worker or all processes", kills) as told:
        told(stress(idx_folder, tmp_path / "killed", EPOCHS, kills, undisturbed, jobs=1))


@pytest.mark.slow
def test_killed_thirty_times_at_other_moments_the_bits_are_the_same(undisturbed, idx_folder, tmp_path, fault):
    with fault("SIGKILL to the parent, a worker or all processes", 30) as told:
        told(stress(idx_folder, tmp_path / "killed", EPOCHS, 30, undisturbed, seed=1))


# Checkpoints


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    return out / TRIAL, run(digits, out, model=Unrecorded)


@pytest.fixture(scope="module")
def stopped(digits, tmp_path_factory):
    """The folder of a run that was stopped after its last epoch, before its results."""
    out = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, train, "finish")
        with pytest.raises(Interruption):
            run(digits, out, model=Unrecorded)
    return out


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "altered":
        content[len(content) // 2] ^= 4
    path.write_bytes({"empty": b"", "truncated": content[:-1], "half": content[: len(content) // 2]}.get(how, content))


@pytest.mark.parametrize(
    ("how", "both"),
    [
        *(("altered", False), ("half", True)),
        *(pytest.param(how, False, marks=pytest.mark.slow) for how in ("empty", "truncated", "half")),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    finished, stopped, digits, tmp_path, capsys, fault, how, both
):
    out = shutil.copytree(stopped, tmp_path / "out")
    last, previous = (out / TRIAL / name for name in ("checkpoint.pt", "checkpoint_previous.pt"))
    damage(last, how)
    if both:
        damage(previous, how)
    with fault("checkpoint empty, truncated or with a flipped bit") as told:
        began = time.perf_counter()
        seconds = []
        with pytest.MonkeyPatch.context() as patch:
            original = train.epoch_order  # what comes after the loading
            patch.setattr(train, "epoch_order", lambda *a: seconds.append(time.perf_counter() - began) or original(*a))
            results = run(digits, out, model=Unrecorded)
        told(seconds[0])
        errors = capsys.readouterr().err.splitlines()
        expected = [f"{last} is damaged: its checksum does not fit; it is deleted"]
        if both:
            expected += [f"{previous} is damaged: its checksum does not fit; it is deleted"]
            expected += [f"{out / TRIAL} has no good checkpoint and starts again from epoch 1"]
        else:
            expected += [f"{out / TRIAL} goes on from checkpoint_previous.pt, after epoch 2"]
        assert errors == expected
        assert without_times(results) == without_times(finished[1])
        assert points(out / TRIAL) == points(finished[0])
        assert (out / TRIAL / "weights.pt").read_bytes() == (finished[0] / "weights.pt").read_bytes()


def test_a_kill_between_the_two_renamings_costs_one_epoch(finished, stopped, digits, tmp_path, capsys):
    out = shutil.copytree(stopped, tmp_path / "out")
    (out / TRIAL / "checkpoint.pt").unlink()
    (out / TRIAL / ".checkpoint.pt.7.part").write_bytes(b"half a checkp")
    assert without_times(run(digits, out, model=Unrecorded)) == without_times(finished[1])
    assert capsys.readouterr().err == ""
    assert not list((out / TRIAL).glob(".*.part"))


def test_every_flipped_bit_and_every_truncation_of_a_sealed_file_is_noticed(tmp_path, fault):
    path = tmp_path / "sealed"
    content = bytes(range(40))
    files.write_sealed(path, content, FINGERPRINT)
    assert files.read_sealed(path)[0] == content
    sealed = path.read_bytes()
    wrong = [sealed[:n] for n in range(len(sealed))] + [sealed + b"0"]
    for bit in range(8 * len(sealed)):
        wrong.append(bytearray(sealed))
        wrong[-1][bit // 8] ^= 1 << bit % 8
    with fault("checkpoint empty, truncated or with a flipped bit", len(wrong)):
        for other in wrong:
            path.write_bytes(other)
            with pytest.raises(files.Damaged, match="sealed is damaged"):
                files.read_sealed(path)


@given(content=st.binary(max_size=300))
def test_no_bytes_are_taken_for_a_sealed_file(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "sealed"
    path.write_bytes(content)
    with pytest.raises(files.Damaged):
        files.read_sealed(path)
    files.write_sealed(path, content, FINGERPRINT)
    assert files.read_sealed(path)[0] == content


def test_writing_a_checkpoint_keeps_the_one_before_until_the_next_is_good(tmp_path, monkeypatch):
    last, previous = tmp_path / "last", tmp_path / "previous"
    for content in (b"first", b"second"):
        files.write_sealed(last, content, FINGERPRINT, previous)
    assert (files.read_sealed(previous)[0], files.read_sealed(last)[0]) == (b"first", b"second")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_sealed(last, b"third", FINGERPRINT, previous)
    assert (files.read_sealed(previous)[0], files.read_sealed(last)[0]) == (b"first", b"second")
    assert sorted(tmp_path.iterdir()) == [last, previous]


@pytest.mark.parametrize("at", range(1, 7))
def test_killed_while_a_run_is_replaced_it_neither_looks_finished_nor_has_another_ones_checkpoint(
    tmp_path, monkeypatch, at
):
    names = ("results.json", "settings.json", "checkpoint.pt", "checkpoint_previous.pt", "weights.pt", "failed.txt")
    for name in names:
        (tmp_path / name).touch()
    interrupt(monkeypatch, Path, "unlink", at + 1)
    with contextlib.suppress(Interruption):
        folder.remove_run(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == len(names) - at
    assert "results.json" not in left
    assert "settings.json" in left or not left & {"checkpoint.pt", "checkpoint_previous.pt", "failed.txt"}


class Trap:
    """Unpickled, it would run code."""

    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.parametrize("name", ["checkpoint.pt", "weights.pt"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "as it is"])
def test_a_file_that_would_run_code_is_refused(finished, stopped, digits, tmp_path, capsys, fault, name, sealed):
    """With a checksum, as from somebody who knows this code, and without one."""
    source = stopped if name == "checkpoint.pt" else finished[0].parent
    out = shutil.copytree(source, tmp_path / "out")
    path = out / TRIAL / name
    its_fingerprint = fingerprint(read_settings(path.parent))
    if sealed:
        save_tensors(path, {"model": Trap()}, its_fingerprint)
    else:
        torch.save({"model": Trap()}, path)
    with fault("checkpoint or weights that would run code") as told:
        if sealed or name == "weights.pt":
            with pytest.raises(
                RunError, match=rf"{name} (holds more than tensors|is damaged|is not the file).*--force"
            ):
                run(digits, out, model=Unrecorded)
        else:
            results = run(digits, out, model=Unrecorded)  # goes on from the checkpoint before
            assert without_times(results) == without_times(finished[1])
        told()
        assert "code of the file ran" not in capsys.readouterr().out


# Disks


@pytest.fixture
def small_disk(tmp_path):
    """Mount a real disk of 3 MB in memory: (its path, a function that mounts it again with other options)."""
    tmp_path.joinpath("disk").mkdir()
    program = f"mount -t tmpfs -o size=3m none {tmp_path}/disk && echo ready && while read line; do eval $line; done"
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c", program]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare of util-linux to mount a small disk")
    with subprocess.Popen(
        namespace, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as keeper:
        if keeper.stdout.readline() != "ready\n":
            pytest.skip("this user may not mount a disk, not even in a namespace of its own")

        def remount(options):
            keeper.stdin.write(f"mount -o remount,{options} {tmp_path}/disk; echo done\n")
            keeper.stdin.flush()
            assert keeper.stdout.readline() == "done\n"

        yield Path(f"/proc/{keeper.pid}/root{tmp_path}/disk"), remount
        keeper.stdin.close()


@contextlib.contextmanager
def stopped_after_an_epoch(process, out):
    """Let each run of a job stop when it has a checkpoint, and go on when this ends: {name of a run: its process}."""
    workers = {}
    wait_until(lambda: stop_those_with_a_checkpoint(out, workers) == len(NAMES) or process.poll() is not None)
    assert sorted(workers.values()) == sorted(process.workers())
    yield workers
    for pid in workers.values():
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            os.kill(pid, signal.SIGCONT)


def stop_those_with_a_checkpoint(out, workers):
    """Stop the processes whose runs have one; `workers`, {name of a run: its process}, are those that are stopped."""
    for name in NAMES:
        if name not in workers and (out / name / "checkpoint.pt").exists():
            workers[name] = int((out / name / ".holder").read_text().split()[1])
            os.kill(workers[name], signal.SIGSTOP)
    return len(workers)


def test_a_file_size_limit_and_a_full_disk_that_are_met_during_the_training(
    small_disk, begin, undisturbed, idx_folder, fault
):
    """One run meets the limit; when it has failed the disk fills up, for the other."""
    disk, _ = small_disk
    out = disk / "out"
    with fault("disk full or file-size limit", 2) as told:
        process = begin(out)
        with stopped_after_an_epoch(process, out) as workers:
            began = time.perf_counter()
            limited = workers[NAMES[0]]
            resource.prlimit(limited, resource.RLIMIT_FSIZE, (1000, 1000))
            os.kill(limited, signal.SIGCONT)
            wait_until(lambda: limited not in process.workers())
            told(time.perf_counter() - began)
            with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(10_000))
            began = time.perf_counter()
        output, errors = process.communicate(timeout=60)
        told(time.perf_counter() - began)
        assert process.returncode == 1
        for name, why in zip(NAMES, ("[Errno 27] File too large", "[Errno 28] No space left on device"), strict=True):
            assert f"failed: {out / name} cannot be used ({why}" in output
            assert files.read_sealed(out / name / "checkpoint.pt")
            assert not (out / name / "results.json").exists()
        assert "; fix this or choose another --out; the same command goes on" in output
        assert "Traceback" not in errors
        (disk / "ballast").unlink()
        finish(idx_folder, out)
        assert_same_runs(out, undisturbed)


def test_a_read_only_disk_is_named_before_any_training(small_disk, idx_folder, fault):
    disk, remount = small_disk
    remount("ro")
    with fault("output folder read-only, missing or a file") as told:
        kind, why = prepared([ALL["exp_01"]], "--out", disk / "out", "--data", idx_folder)
        told()
        assert kind == "failed"
        assert why.startswith(f"{disk / 'out'} cannot be used ([Errno 30] Read-only file system")


@pytest.mark.parametrize("place", ["/proc/nowhere/out", "file", "file/out"])
def test_a_folder_that_cannot_be_is_named_before_any_training(idx_folder, tmp_path, fault, place):
    (tmp_path / "file").write_text("not a folder")
    with fault("output folder read-only, missing or a file") as told:
        kind, why = prepared([ALL["exp_01"]], "--out", tmp_path / place, "--data", idx_folder)
        told()
        assert kind == "failed"
        assert re.match(rf"{tmp_path / place} cannot be used \(.*\); fix this or choose another --out", why)


# Two at once


def is_locked(place):
    try:
        with FileLock(place / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def test_the_second_on_a_folder_is_told_who_holds_which_run(begin, idx_folder, tmp_path, fault):
    with fault("two at once on the same folder") as told:
        first = begin(tmp_path)
        with stopped_after_an_epoch(first, tmp_path):  # none may be ready before the second has asked
            workers = first.workers()
            began = time.perf_counter()
            rows = [ALL[exp_id] for exp_id in EXPERIMENTS]
            _, (options, jobs, _) = prepared(rows, "--data", idx_folder, "--out", tmp_path, n_epochs=EPOCHS)
            outcomes = [train_job(job, options) for job in jobs]
            told(time.perf_counter() - began)
            for pid in (first.pid, *workers):
                os.kill(pid, signal.SIGKILL)
        for name, (kind, why) in zip(NAMES, outcomes, strict=True):
            assert kind == "failed"
            holder = why.partition(f"{tmp_path / name} is being trained by process ")[2]
            assert int(holder.split()[0]) in workers
            assert f" on {platform.node()}; wait for it" in holder
        first.wait()
        for name in NAMES:
            wait_until(lambda name=name: not is_locked(tmp_path / name))
            assert files.read_sealed(tmp_path / name / "checkpoint.pt")


def test_the_note_of_who_holds_a_run_is_only_for_the_message(digits, tmp_path):
    place = tmp_path / TRIAL
    place.mkdir()
    note = place / ".holder"
    with FileLock(place / ".lock"):
        for text, who in (("process 77 on elsewhere",) * 2, ("", "another process")):
            note.write_text(text)
            with pytest.raises(RunError, match=f"is being trained by {who}; wait for it"):
                run(digits, tmp_path, model=Unrecorded)
    run(digits, tmp_path, n_epochs=1, model=Unrecorded)  # a lock that nobody holds keeps nobody out
    assert note.read_text() == f"process {os.getpid()} on {platform.node()}"


# Not finite


class BrokenGradient(nn.Sequential):
    """A network whose loss is finite until a weight is NaN, and if `hidden` also then: its gradient is NaN."""

    def __init__(self, hidden):
        super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))
        self.weight = nn.Parameter(torch.zeros(()))
        self.hidden = hidden

    def forward(self, x):
        x = super().forward(x)
        nothing = (0 * self.weight).abs().sqrt()  # the derivative of the root is infinite, times 0 is NaN
        return x + (nothing.nan_to_num() if self.hidden else nothing)


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        (Unrecorded, Recipe(learning_rate=1e30)),
        (Unrecorded, Recipe("adam", learning_rate=1e38)),
        (lambda: BrokenGradient(False), Recipe()),
        (lambda: BrokenGradient(True), Recipe()),
    ],
    ids=["loss", "loss with adam", "gradient", "gradient that no loss shows"],
)
def test_a_run_that_is_not_finite_fails_and_stays_failed(digits, tmp_path, monkeypatch, fault, model, recipe):
    place = tmp_path / TRIAL
    with fault("loss or gradient not finite") as told:
        with pytest.raises(RunError, match=r"the loss or a weight in epoch 1 is not finite \(train loss "):
            run(digits, tmp_path, model=model, recipe=recipe)
        told()
        assert not (place / "results.json").exists()
        assert not (place / "checkpoint.pt").exists()
        with monkeypatch.context() as patch:
            forbid(patch, train, "train_epoch")
            with pytest.raises(RunError, match=r"failed: the loss or a weight in epoch 1 .* delete failed.txt"):
                run(digits, tmp_path, model=model, recipe=recipe)
        with pytest.raises(RunError, match="in epoch 1 is not finite"):  # trained again, to the same end
            run(digits, tmp_path, model=model, recipe=recipe, overwrite=True)


def test_after_a_failure_it_goes_on_from_the_last_good_epoch_if_asked(finished, digits, tmp_path, monkeypatch):
    original, calls = train.train_epoch, []
    with monkeypatch.context() as patch:
        patch.setattr(
            train, "train_epoch", lambda *a: calls.append(1) or (original(*a) if len(calls) < 3 else math.nan)
        )
        with pytest.raises(RunError, match=r"in epoch 3 is not finite \(train loss nan, test loss 2\.\d+\)"):
            run(digits, tmp_path, model=Unrecorded)
    assert len(torch.load(tmp_path / TRIAL / "checkpoint.pt", weights_only=True)["history"]) == 2
    (tmp_path / TRIAL / "failed.txt").unlink()
    assert without_times(run(digits, tmp_path, model=Unrecorded)) == without_times(finished[1])


def test_an_epoch_ends_at_once_when_its_loss_is_not_finite():
    steps = []
    batches = torch.arange(640).repeat(20).split(64)  # 200 steps

    def step(batch):
        steps.append(len(batch))
        return torch.tensor(math.inf if len(steps) == 60 else 1.0)

    assert train.train_epoch(step, batches) == math.inf
    assert len(steps) == 101


def test_runs_that_fail_are_told_and_the_others_go_on(start, undisturbed, idx_folder, tmp_path):
    """One has failed before, one has a file where its folder should be, and one has only to come to its end."""
    out = shutil.copytree(undisturbed, tmp_path / "out")
    for name in NAMES:
        (out / name / "results.json").unlink()
    (out / NAMES[0] / "failed.txt").write_text("the loss of epoch 3 is not finite")
    in_the_way = out / ALL["exp_04"].directory(1)
    in_the_way.write_text("not a folder")
    process = start([*job(idx_folder, out, jobs=1), "exp_04"])
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"failed: {out / NAMES[0]} failed: the loss of epoch 3 is not finite; to replace it, " in output
    assert f"failed: {in_the_way} cannot be used (" in output
    assert not (out / NAMES[0] / "results.json").exists()
    assert (out / NAMES[1] / "results.json").exists()
    assert "Traceback" not in errors


# Memory and handles


@pytest.mark.slow
def test_memory_files_and_threads_do_not_grow_with_the_epochs_nor_with_the_runs(tmp_path, idx_folder):
    """One process trains a run of 80 epochs, then three short ones, as a worker does."""
    program = """
import json, os, sys, threading
from models import Net_CoordConv_Homography
from stn.data import Dataset, load
from train import train

def look():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count()

digits = load(sys.argv[1])
few = Dataset(*(split[:64] for split in digits[:4]), digits.description)

def run(name, n_epochs, on_progress=None):
    train(Net_CoordConv_Homography(), name, n_epochs, data=few, out=sys.argv[2], on_progress=on_progress)

in_epoch, after_run = {}, []
run("long", 80, lambda epoch, *_: in_epoch.update({epoch: look()}))
for number in range(3):
    run(f"short_{number}", 1)
    after_run.append(look())
left = [link for number in os.listdir("/proc/self/fd") if os.path.exists(link := f"/proc/self/fd/{number}")]
left = [path for path in map(os.readlink, left) if path.startswith(sys.argv[2])]
print(json.dumps([in_epoch[20], in_epoch[80], after_run[0], after_run[-1], left, threading.active_count()]))
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("reads the resident memory from /proc")
    command = [sys.executable, "-c", program, idx_folder, tmp_path]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert process.returncode == 0, process.stderr
    *seen, files_left, threads_left = json.loads(process.stdout)
    for early, late in (seen[:2], seen[2:]):
        assert late[0] <= 1.05 * early[0], (early, late)
        assert late[1:] == early[1:]
    assert (files_left, threads_left) == ([], 1)
