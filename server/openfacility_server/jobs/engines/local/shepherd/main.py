"""Runs one job from its claim to its exit record."""

# A shepherd starts in milliseconds: no pathlib, no contextlib, nothing from outside of its package.
# ruff: noqa: PTH110, PTH118, SIM105, TID252

from __future__ import annotations

import os
import resource
import select
import signal
import time
import traceback

from . import proc, record
from .program import Files, Job, LaunchError, launch_error, start

FIRST_SAMPLE = 0.25  # seconds; doubled after each sample, so that long jobs cost little
LIMITED_SAMPLE = 0.5  # longest time between samples of a job with a memory limit
UNLIMITED_SAMPLE = 5.0  # ... and of one without
KILL_AGAIN = 0.05
RETRY = 1.0
GIVE_UP_ON_OTHERS = 10.0  # processes that the kernel does not let us kill (setuid) are left after this time


def main(directory: str) -> None:
    """Claims the job and sees it through. A second shepherd of the same job does nothing."""
    claim = record.lock(os.path.join(directory, record.CLAIM))
    if claim is None or record.claimed(claim):
        return
    try:
        job = Job(directory)
        if os.path.exists(job.file(record.EXIT)):
            return
        record.reserve(job.file(record.RESERVED))
        me = f'{{"pid": {os.getpid()}, "identity": {proc.identity(os.getpid())}, "boot": "{proc.boot_id()}"}}'
        os.write(claim, me.encode())
        os.fsync(claim)
    except OSError:
        return  # nothing has begun (a full disk?): the leader will try again
    try:
        Shepherd(job).run()
    except BaseException:
        # A fault of ours. Without an exit record the leader reports the job as lost, which it then is.
        record.write_file(job.file("shepherd.log"), traceback.format_exc().encode(), durable=False)
        raise


def now() -> float:
    """Returns seconds on a clock that nobody sets and that goes on while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Shepherd:
    """Watches over the processes of one job."""

    def __init__(self, job: Job) -> None:
        """Gets ready to hear of signals; nothing is started yet."""
        self.job = job
        self.memory: int | None = job.launch["memory"]
        self.grace = float(job.launch["kill_grace"])
        self.limit = self._limit()
        self.started_at: float | None = None  # by the clock of now()
        self.start_time = 0  # nanoseconds since 1970
        self.stopping = ""  # the reason for which we are ending the processes of the present phase
        self.deaf = False  # whether to pass over a cancellation: it has been obeyed before
        self.message = ""
        self.kill_at = 0.0
        self.bound: float | None = None  # when post_launch has to be done
        self.running: set[int] = set()  # the processes that the present phase waits for
        self.sessions: list[int] = []
        self.ended: list[int] = []  # their wait statuses, in the order of their ends
        self.deciding: int | None = None  # the status that the job's exit code comes from
        self.childless = False
        self.signals_read = 0  # bytes of the file of signals that have been seen to
        self.peak = 0
        self.interval = FIRST_SAMPLE
        self.next_sample = 0.0
        self._listen()
        proc.adopt_orphans()

    def _listen(self) -> None:
        self.woken, wake = os.pipe()
        os.set_blocking(self.woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    # The course of a job

    def run(self) -> None:
        """Runs pre_launch, the program and post_launch, and records the end."""
        try:
            self._obey_cancel()
            state, reason = self._verdict() if self.stopping else self._course()
        except LaunchError as error:
            self.deciding = None
            state, reason, self.message = "FAILED", "LAUNCH_FAILED", str(error)
        self._end_all()
        self._record(state, reason)

    def _course(self) -> tuple[str, str]:
        self._prepare()
        if self.job.spec["pre_launch"]:
            self._phase("pre_launch", [self.job.spec["pre_launch"]], 1)
            if self.stopping or any(self.ended):
                state, reason = self._verdict("The pre_launch script")
                self.deciding = None  # the program never ran
                return state, reason
        stage, command = self.job.command()
        self._phase(stage, command, self.job.copies())
        state, reason = self._verdict("The program")
        if self.job.spec["post_launch"]:
            self._post_launch()
        return state, reason

    def _prepare(self) -> None:
        try:
            self.directory = self.job.directory()
            os.chdir(self.directory)  # only to see that it can be entered: we do not stay, it may be unmounted
            os.chdir("/")
        except OSError as error:
            raise launch_error("directory", error.errno or 0) from None
        self.variables = self.job.environment()
        self.files = Files(self.job, self.directory)

    def _post_launch(self) -> None:
        """Runs post_launch; what becomes of it is told and changes nothing."""
        deciding, stopped, message = self.deciding, bool(self.stopping), self.message
        self.stopping, self.deaf = "", stopped
        self.bound = now() + self.grace if stopped else None
        note = ""
        try:
            self._phase("post_launch", [self.job.spec["post_launch"]], 1)
            if self.stopping:
                note = "The post_launch script was stopped."
            elif any(self.ended):
                note = f"The post_launch script ended with {describe(self.ended[0])}."
        except LaunchError as error:
            note = str(error)
        self.deciding, self.message = deciding, f"{message} {note}".strip()

    def _phase(self, stage: str, command: list[str], copies: int) -> None:
        """Runs some processes to their end, or to that of everything when the job is being stopped."""
        self.ended = []
        if self.started_at is None:
            self.started_at, self.start_time = now(), time.time_ns()
        for index in range(copies):
            variables = dict(self.variables)
            if stage in ("program", "script"):
                variables["OPENFACILITY_PROCESS_INDEX"] = str(index)
            pid = start(stage, command, self.directory, variables, self.files)
            self.running.add(pid)
            self.sessions.append(pid)
        self._tell_started()
        self.next_sample = 0.0
        while self.running or (self.stopping and not self.childless):
            orders = self._sleep()
            self._reap()
            if self.running or self.stopping:
                self._look(orders)

    def _tell_started(self) -> None:
        value = {
            "start_time": self.start_time,
            "sessions": self.sessions,
            "stdout": self.files.stdout_path,
            "stderr": self.files.stderr_path,
        }
        try:
            record.write_json(self.job.file(record.STARTED), value, durable=False)
        except OSError:
            pass  # a full disk: the job runs all the same, and its end tells of its start
        record.notify(self.job.spool, self.job.id)

    # Watching

    def _sleep(self) -> bool:
        """Waits for a signal or for the next thing to do; returns whether there may be new orders."""
        times = [self.next_sample, self.kill_at if self.stopping else self._deadline()]
        wait = max(0.0, min(moment for moment in times if moment is not None) - now())
        select.select([self.woken], [], [], wait)
        try:
            return signal.SIGHUP in os.read(self.woken, 4096)
        except BlockingIOError:
            return False

    def _deadline(self) -> float | None:
        if self.bound is not None:
            return self.bound
        if self.limit is None or self.started_at is None:
            return None
        return self.started_at + self.limit

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                self.childless = False
                return
            if pid in self.running:
                self.running.discard(pid)
                self.ended.append(status)

    def _look(self, orders: bool) -> None:
        moment = now()
        if orders or moment >= self.next_sample:
            self.limit = self._limit()
            self._pass_signals_on()
            self._obey_cancel()
        if moment >= self.next_sample:
            self._sample(moment)
        deadline = self._deadline()
        if self.stopping:
            if moment >= self.kill_at:
                self._signal(signal.SIGKILL)
                self.kill_at = moment + KILL_AGAIN
        elif deadline is not None and moment >= deadline:
            self._stop("TIME_LIMIT", f"Stopped at its time limit of {deadline - (self.started_at or 0):g} s.")

    def _limit(self) -> float | None:
        control = record.read_json(self.job.file(record.CONTROL)) or {}
        limit = control.get("duration", self.job.launch["duration"])
        return None if limit is None else float(limit)

    def _obey_cancel(self) -> None:
        if self.deaf or self.stopping:
            return
        reason = record.read_cancel(self.job.file(record.CANCEL))
        if reason is not None:
            self._stop(reason, "")

    def _pass_signals_on(self) -> None:
        numbers, self.signals_read = record.read_signals(self.job.file(record.SIGNALS), self.signals_read)
        for number in numbers:
            self._signal(number)

    def _sample(self, moment: float) -> None:
        used = proc.resident(proc.descendants(os.getpid()))
        self.peak = max(self.peak, used)
        if self.memory is not None and used > self.memory:
            message = f"Used {used} bytes of memory, more than the {self.memory} that it asked for."
            self._stop("OUT_OF_MEMORY", message, grace=0.0)
        self.interval = min(self.interval * 2, UNLIMITED_SAMPLE if self.memory is None else LIMITED_SAMPLE)
        self.next_sample = moment + self.interval

    # Ending

    def _stop(self, reason: str, message: str, grace: float | None = None) -> None:
        """Begins to end everything: a request first, force after the grace time."""
        if self.stopping:
            return
        self.stopping, self.message = reason, message or self.message
        grace = self.grace if grace is None else grace
        if grace > 0:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process would not hear of it
        self.kill_at = now() + grace

    def _signal(self, number: int) -> int:
        if proc.LINUX:
            return proc.send(proc.descendants(os.getpid()), number)
        return proc.send([-session for session in self.sessions], number)

    def _end_all(self) -> None:
        """Kills whatever is left of the job and waits until it is gone."""
        give_up = now() + GIVE_UP_ON_OTHERS
        while True:
            self._reap()
            if self.childless or (self._signal(signal.SIGKILL) == 0 and now() > give_up):
                return
            select.select([self.woken], [], [], KILL_AGAIN)
            self._drain()

    def _drain(self) -> None:
        try:
            os.read(self.woken, 4096)
        except BlockingIOError:
            pass

    def _verdict(self, what: str = "") -> tuple[str, str]:
        """Returns state and reason by what has ended how."""
        self.deciding = next((status for status in self.ended if status != 0), 0 if self.ended else None)
        if self.stopping:
            return ("CANCELED" if self.stopping.startswith("CANCELED") else "FAILED"), self.stopping
        if not self.deciding:
            return "COMPLETED", "UNSPECIFIED"
        self.message = f"{what} ended with {describe(self.deciding)}."
        return "FAILED", "SIGNALED" if os.WIFSIGNALED(self.deciding) else "NONZERO_EXIT"

    def _record(self, state: str, reason: str) -> None:
        """Writes how it ended, for as long as it takes."""
        value: record.Json = {"state": state, "reason": reason, "message": self.message[:1000]}
        value["end_time"] = max(time.time_ns(), self.start_time)  # the clock may have been set back
        if self.deciding is not None:
            value["exit_code"] = os.WEXITSTATUS(self.deciding) if os.WIFEXITED(self.deciding) else None
            value["signal"] = os.WTERMSIG(self.deciding) if os.WIFSIGNALED(self.deciding) else None
        if self.sessions and self.started_at is not None:
            value["start_time"] = self.start_time
            value["usage"] = self._usage(self.started_at)
        while True:
            try:
                record.write_reserved(self.job.file(record.RESERVED), self.job.file(record.EXIT), value)
                return
            except OSError:
                time.sleep(RETRY)

    def _usage(self, started_at: float) -> record.Json:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1024 if proc.LINUX else 1
        # The kernel counts the moment before exec too, when a program still was a copy of this process: below our
        # own size its figure says nothing.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        largest = used.ru_maxrss * unit if used.ru_maxrss > own else 0
        return {
            "elapsed": now() - started_at,
            "cpu_time": used.ru_utime + used.ru_stime,
            "peak_memory": max(self.peak, largest),
        }


def describe(status: int) -> str:
    """Says how a process ended."""
    if not os.WIFSIGNALED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
