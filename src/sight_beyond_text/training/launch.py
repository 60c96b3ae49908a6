"""Several processes for one training, through torch's elastic launcher."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import uuid
from pathlib import Path

from sight_beyond_text.session import TOLD


def is_one_of_several() -> bool:
    """Whether a launcher (this module, torchrun) started this process; srun alone is none."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int, arguments: list[str]) -> None:
    """Runs `sight` with the same arguments in several processes on this machine, and waits.

    Raises:
        SystemExit: status of the process that failed first; it has told why.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The process that fails first says why, in one line; the launcher's own account adds nothing.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    command = elastic_launch(config, sys.executable)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[TOLD] = str(Path(folder) / "told")
            command("-m", "sight_beyond_text.cli", *arguments)
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
