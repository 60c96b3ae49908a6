"""Several processes for one training, through torch's elastic launcher."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.session import TOLD, end_with

MEETING = "SIGHT_MEETING"
"""Variable with where the launchers of several nodes meet, and under which name."""


def is_one_of_several() -> bool:
    """Whether a launcher (this module, torchrun) started this process; srun alone is none."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_one_of_several_nodes() -> bool:
    """Whether `launch` started this process on one of several nodes."""
    return MEETING in os.environ


def launch(
    processes: int, arguments: list[str], nodes: int = 1, threads: int | None = None
) -> None:
    """Runs `sight` with the same arguments in several processes, and waits.

    Args:
        processes: of all nodes together.
        arguments: of the command line.
        nodes: of a SLURM job that they are spread over, through srun; elsewhere all are started on
            this machine.
        threads: of all processes together, for srun, which would give each node one core.

    Raises:
        UserError: the processes can't be spread evenly, or srun isn't there.
        SystemExit: status of the process that failed first; it has told why.
    """
    if "SLURM_JOB_ID" not in os.environ:
        nodes = 1
    if processes % nodes:
        raise UserError(f"--nodes: {processes} processes can't be spread evenly over {nodes} nodes")
    if nodes > 1 and not is_one_of_several_nodes():
        _on_each(nodes, arguments, threads)
        return
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The process that fails first says why, in one line; the launcher's own account adds nothing.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    endpoint, name = os.environ.get(MEETING, f"localhost:0 {uuid.uuid4().hex}").split()
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes // nodes,
        run_id=name,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=0,
    )
    command = elastic_launch(config, sys.executable)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[TOLD] = str(Path(folder) / "told")
            command("-m", "sight_beyond_text.cli", *arguments)
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None


def _on_each(nodes: int, arguments: list[str], threads: int | None) -> None:
    """Starts this command once on each node of the SLURM job, as one step; they meet here."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    meeting = f"{socket.gethostname()}:{port} {uuid.uuid4().hex}"
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    step += ["--kill-on-bad-exit=1", "--export=ALL"]
    step += [f"--cpus-per-task={max(1, threads // nodes)}"] if threads else []
    me = os.getpid()
    try:
        status = subprocess.run(
            [*step, sys.executable, "-m", "sight_beyond_text.cli", *arguments],
            env={**os.environ, MEETING: meeting},
            preexec_fn=lambda: end_with(me),
            check=False,
        ).returncode
    except FileNotFoundError:
        raise UserError("srun: no such program; it starts a run's processes on nodes") from None
    if status:
        raise SystemExit(status if status > 0 else 1)
