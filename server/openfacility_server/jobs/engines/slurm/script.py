"""The text of the batch script that runs a job.

It is ours for every kind of job, so that a job is the same whichever way it was handed over: its environment, its
working directory (Slurm runs a job whose directory is missing in /tmp), the scripts before and after it. The caller's
own script is not the batch script: ``#SBATCH`` lines in it are comments, by sbatch as by REST. It is run from a file
that has no name any more, by the interpreter in its first line, so that nothing is left behind however the job ends.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.model import Container, JobSpec, ResourceSpec

JOB_PATH = "/usr/local/bin:/usr/bin:/bin"
# One argument of a program may have 128 KiB.
MOST_FOR_LAUNCHERS = 120 * 1024
_COUNTS = {
    "process_count": '"$of_processes"',
    "node_count": '"$of_nodes"',
    "processes_per_node": '"$(((of_processes + of_nodes - 1) / of_nodes))"',
    "cpu_cores_per_process": '"$of_cores"',
}
_SAVE = (
    'of_script=$(mktemp "${{TMPDIR:-/tmp}}/openfacility.XXXXXXXX") && printf %s {text} >"$of_script"'
    ' && exec 9<"$of_script" && rm -f -- "$of_script"'
)
_INDEXED = 'OPENFACILITY_PROCESS_INDEX=$SLURM_PROCID; export OPENFACILITY_PROCESS_INDEX; exec "$0" "$@"'
# Adds up what Slurm writes as 4(x2),1.
_SUM = (
    "of_sum() {",
    "  of_total=0",
    "  for of_part in $(echo \"$1\" | tr ',' ' '); do",
    "    of_times=${of_part#*x}",
    '    [ "$of_times" != "$of_part" ] || of_times=1',
    "    of_total=$((of_total + ${of_part%%(*} * ${of_times%)}))",
    "  done",
    '  echo "$of_total"',
    "}",
)
_CAUGHT = "HUP INT QUIT USR1 USR2 ALRM TERM"


class Quoted(str):
    """A word as the shell has to read it, which `quote` leaves alone."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """A resource specification with what it means where nothing is said. ``gpus`` are for each process."""

    nodes: int
    processes: int
    per_node: int | None
    cores: int
    gpus: int


def needs_of(resources: ResourceSpec) -> Needs:
    """Returns what a specification comes to."""
    nodes, per_node = resources.node_count or 1, resources.processes_per_node
    processes = resources.process_count or nodes * (per_node or 1)
    return Needs(nodes, processes, per_node, resources.cpu_cores_per_process or 1, resources.gpu_cores_per_process or 0)


def batch_script(job_id: str, spec: JobSpec, account: Account, directory: str, settings: SlurmSettings) -> str:
    """Returns the batch script of a job or, where ``spec.array`` is set, of an array's elements."""
    variables = _variables(job_id, spec, account, settings)
    needs = needs_of(spec.resources)
    lines = [
        "#!/bin/sh",
        "of_cr=$(printf '\\r')",
        # Not as submitted but as it is: what a job needs can be changed until it starts. SLURM_NTASKS is as submitted.
        *_SUM,
        f'of_processes=$(of_sum "${{SLURM_TASKS_PER_NODE:-{needs.processes}}}")',
        f'of_all=$(of_sum "${{SLURM_JOB_CPUS_PER_NODE:-{needs.processes * needs.cores}}}")',
        f"of_nodes=${{SLURM_JOB_NUM_NODES:-{needs.nodes}}}",
        f"of_cores=${{SLURM_CPUS_PER_TASK:-{needs.cores}}}",
        '[ $((of_processes * of_cores)) -le "$of_all" ] || of_cores=$((of_all / of_processes))',
        'of_fail() { echo "openfacility: $1" >&2; exit 126; }',
        f'of_run() {{ exec /usr/bin/env {" ".join(variables)} "$@"; }}',
        f'cd {quote(directory)} || of_fail "the working directory cannot be entered"',
    ]
    if spec.pre_launch:
        lines.append(f"( of_run {_command([spec.pre_launch])} ) || exit")
    prepare, command = _program(spec, settings)
    if prepare:
        lines.append(f'{prepare} || of_fail "the script cannot be stored in the temporary directory"')
    if spec.post_launch:
        # This shell must outlive the program: caught, not ignored, or the program would ignore them too.
        lines += [
            f"trap : {_CAUGHT}",
            f"( of_run {command} )",
            "of_code=$?",
            f"( of_run {_command([spec.post_launch])} )",
            # Ended by a signal: then so does this, as it would without a script after it.
            f'[ "$of_code" -le 128 ] || {{ trap - {_CAUGHT}; kill -"$((of_code - 128))" $$; }}',
            'exit "$of_code"',
        ]
    else:
        lines.append(f"of_run {command}")
    return "\n".join(lines) + "\n"


def _variables(job_id: str, spec: JobSpec, account: Account, settings: SlurmSettings) -> list[str]:
    """Returns assignments as words of the shell.

    They are given to env, not made by the shell, in which some names cannot be assigned to.
    """
    values = {"PATH": JOB_PATH}
    if spec.inherit_environment:
        values |= {"HOME": account.home, "USER": account.name, "LOGNAME": account.name, "SHELL": account.shell}
        values |= settings.environment
    values |= spec.environment
    values |= {"OPENFACILITY_RESOURCE_ID": settings.resource_id, "OPENFACILITY_PROCESS_INDEX": "0"}
    words = [quote(f"{name}={value}") for name, value in values.items()]
    words.append("OPENFACILITY_CORES=$of_all")
    if spec.array is None:
        return [*words, f"OPENFACILITY_JOB_ID={job_id}"]
    return [
        *words,
        f'OPENFACILITY_JOB_ID={job_id}_"$SLURM_ARRAY_TASK_ID"',
        f"OPENFACILITY_ARRAY_JOB_ID={job_id}",
        'OPENFACILITY_ARRAY_INDEX="$SLURM_ARRAY_TASK_ID"',
    ]


def _program(spec: JobSpec, settings: SlurmSettings) -> tuple[str, str]:
    """Returns what has to be done before the program can be run, and the words that run it."""
    launcher = launcher_words(spec, settings)
    contained = [] if spec.container is None else container_words(spec.container, settings.container or "")
    if not spec.script:
        command = [*launcher, *contained, spec.executable or spec.script_path, *spec.arguments]
        return "", _command(command)
    interpreter = interpreter_of(spec.script)
    if not launcher and not contained:
        prepare = _SAVE.format(text=quote(spec.script))
        return prepare, _command([*interpreter, "/dev/fd/9", *spec.arguments])
    # It has to get to other nodes, or into a container, without a file that both can see.
    run = " ".join(quote(word) for word in interpreter)
    fetch = f'{_SAVE.format(text=chr(34) + "$0" + chr(34))} && exec {run} /dev/fd/9 "$@"'
    return "", _command([*launcher, *contained, "/bin/sh", "-c", fetch, spec.script, *spec.arguments])


def interpreter_of(script: str) -> list[str]:
    """Returns the interpreter in the first line and its argument, if any, as the kernel reads them."""
    line = script.partition("\n")[0].removeprefix("#!").strip(" \t")
    return re.split(r"[ \t]+", line, maxsplit=1) if line else []


def launcher_words(spec: JobSpec, settings: SlurmSettings) -> list[str]:
    """Returns what starts the processes: nothing for ``single``. Raises KeyError for one that is not configured."""
    if spec.launcher in settings.launchers:
        return [_filled(word, _COUNTS) for word in shlex.split(settings.launchers[spec.launcher])]
    match spec.launcher:
        case "" | "single":
            return []
        case "srun":
            return _srun(spec.resources)
        case "multiple":
            return [*_srun(spec.resources), "/bin/sh", "-c", _INDEXED]
    raise KeyError(spec.launcher)


def _srun(resources: ResourceSpec) -> list[str]:
    # Said in full: what the allocation was made with does not reach srun in all versions, nor by REST.
    words = ["srun", "--ntasks={process_count}", "--nodes={node_count}", "--cpus-per-task={cpu_cores_per_process}"]
    if resources.processes_per_node:
        words.append("--ntasks-per-node={processes_per_node}")
    if resources.gpu_cores_per_process:
        words.append(f"--gpus-per-task={resources.gpu_cores_per_process}")
    return [_filled(word, _COUNTS) for word in words]


def container_words(container: Container, template: str) -> list[str]:
    """Returns what runs a program in a container; ``{mounts}`` becomes a ``--bind`` for each mount."""
    binds = [
        f"--bind={mount.source}:{mount.target}{':ro' if mount.read_only else ''}" for mount in container.volume_mounts
    ]
    words: list[str] = []
    for word in shlex.split(template):
        if word == "{mounts}":
            words += binds
        else:
            words.append(_filled(word, {"image": quote(container.image)}))
    return words


def _filled(word: str, values: Mapping[str, str]) -> Quoted:
    """Returns a word for the shell with the values, which are words of it already, in the place of their names."""
    parts = re.split(r"\{([a-z_]+)\}", word)
    texts = [quote(part) if part else "" for part in parts[::2]]
    names = [values.get(name, quote(f"{{{name}}}")) for name in parts[1::2]]
    return Quoted("".join(text + name for text, name in zip(texts, [*names, ""], strict=True)))


def _command(words: Sequence[str]) -> str:
    """Returns a command for env, which takes a first word with an equals sign for a variable."""
    if "=" in words[0]:
        words = ["/bin/sh", "-c", 'exec "$0" "$@"', *words]
    return _quoted(words)


def _quoted(words: Iterable[str]) -> str:
    return " ".join(quote(word) for word in words)


def quote(word: str) -> str:
    """Quotes a word for the shell. Carriage returns are not in the text: sbatch refuses scripts that have any."""
    if isinstance(word, Quoted):
        return word
    return shlex.quote(word).replace("\r", "'\"$of_cr\"'")
