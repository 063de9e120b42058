"""Runs as jobs of a Slurm cluster, by submitit (github.com/facebookincubator/submitit), an optional package.

Jobs leave what submitit needs, and their logs, in <out>/.slurm; the runs themselves are as anywhere else.
"""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

from lab.files import ROOT
from lab.settings import RunError, longest_first

SLURM = {"job_name": "stn", "time": 120, "cpus_per_task": 1}  # defaults of --slurm; time in minutes
USERS_OWN = ("SBATCH_", "SLURM_CLUSTERS", "SLURM_CONF", "SLURM_JWT")  # variables that are not of an allocation
SECONDS_BETWEEN_LOOKS = 1.0
MAX_TIMEOUTS = 1000  # a job whose time is up goes on where it was, so it may be started again as often as it needs


class Resumable:
    """A call of `function(job, options)` that goes on when Slurm starts it again: the run continues by itself.

    submitit calls `checkpoint` before Slurm takes the job from its machine, and queues what it returns.
    """

    def __init__(self, function, options):
        self.function, self.options = function, options

    def __call__(self, job):
        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":  # queued again by Slurm itself, without `checkpoint`
            self.options.force = False
        return self.function(job, self.options)

    def checkpoint(self, job):
        from submitit.helpers import DelayedSubmission

        self.options.force = False  # the old run was already replaced at the first start
        return DelayedSubmission(self, job)


def new_executor(options):
    """Return submitit's executor for Slurm. Raise RunError.

    options.slurm: parameters of submitit's SlurmExecutor by name.
    """
    try:
        import submitit
    except ImportError:
        needed = "--executor slurm needs submitit: python -m pip install -r requirements-slurm.txt"
        raise RunError(needed) from None
    missing = [command for command in ("sbatch", "srun", "sacct", "scancel") if not shutil.which(command)]
    if missing:
        raise RunError(
            f"--executor slurm: this machine is not part of a Slurm cluster (no {missing[0]}); "
            "call it where sbatch works, or leave the option out to train here"
        )
    executor = submitit.SlurmExecutor(Path(options.out, ".slurm"), max_num_timeout=MAX_TIMEOUTS)
    parameters = SLURM | ({"array_parallelism": options.jobs} if options.jobs else {}) | options.slurm
    if type(parameters["time"]) is not int:
        raise RunError(f"--slurm time={parameters['time']}: a whole number of minutes is needed")
    try:
        executor.update_parameters(**parameters)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"--slurm: {' '.join(str(error).split())}") from None
    return executor


@contextmanager
def job_environment():
    """Set the environment that jobs are submitted with: modules are found, and an allocation around us is not seen.

    sbatch hands its environment on, and srun in the job obeys the SLURM_* that it finds, such as the memory of an
    allocation that this process runs in. What the user has set for Slurm and sbatch themselves stays.
    """
    from submitit.helpers import clean_env, environment_variables

    # The jobs start in the present folder, which need not be the one that the modules are in.
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    variables |= {name: value for name, value in os.environ.items() if name.startswith(USERS_OWN)}
    with clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext(), environment_variables(**variables):
        yield


def run_all(executor, train_job, jobs, options, display):
    """Submit the jobs, the longest first, and wait for them; set the status of each.

    train_job: called as train_job(job, options) in a process of its own, on another machine; returns ("finished", the
        results) or ("failed", why).
    """
    import submitit

    jobs = longest_first(jobs)
    try:
        with job_environment():
            submitted = executor.map_array(Resumable(train_job, options), jobs)
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
        raise RunError(f"the jobs were not accepted: {' '.join(str(error).split())}") from None
    waiting = list(zip(submitted, jobs, strict=True))
    print(f"submitted as jobs {submitted[0].job_id} to {submitted[-1].job_id}; their logs are in {executor.folder}")
    try:
        while waiting:
            for task, job in [pair for pair in waiting if pair[0].done()]:
                waiting.remove((task, job))
                try:
                    job.conclude(*task.result())
                except Exception:  # submitit's, with the whole log in it; what the run itself may raise is a result
                    job.conclude("failed", f"job {task.job_id} ended without a result, see {task.paths.stderr}")
                display.end(job.name, job.n_epochs, job.status)
            time.sleep(SECONDS_BETWEEN_LOOKS if waiting else 0)
    finally:  # after an interrupt; nothing is left otherwise
        for _, job in waiting:
            job.status = "interrupted"
        if arrays := {task.job_id.partition("_")[0] for task, _ in waiting}:
            subprocess.run(["scancel", *sorted(arrays)], check=False)
