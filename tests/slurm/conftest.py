"""A SLURM cluster of two pretended nodes, one of them with four pretended GPUs, on this machine."""

import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "scontrol", "sinfo", "munged")
# Both nodes are this machine, whatever it has. squeue remembers finished jobs for an hour, as
# nothing keeps accounts. Memory is watched by sampling, for a container has no cgroups to give.
# What comes into the partition `urgent` sends jobs of `main` back into the queue.
SETTINGS = """\
ClusterName=pretended
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=2
MinJobAge=3600
NodeName=cpus NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=16000
NodeName=gpus NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=16000 \
Gres=gpu:{gpus}
PartitionName=main Nodes=cpus,gpus Default=YES MaxTime=600 PriorityTier=1
PartitionName=urgent Nodes=gpus MaxTime=600 PriorityTier=9
"""
GPUS = 4


class Cluster:
    """The daemons, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen] = {}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        path = f"{folder}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.environment = {**kept, "PATH": path, "SLURM_CONF": str(self.configuration)}

    def start(self) -> None:
        folder = self.folder
        folder.chmod(0o755)  # munge wants its socket to be open to all
        for name in ("state", "cpus", "gpus", "bin"):
            (folder / name).mkdir()
        self._write_settings()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = ("socket", "pid-file", "log-file", "seed-file")
        self._run("munged", "--foreground", f"--key-file={key}", *(
            f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in files
        ))  # fmt: skip
        self.wait((folder / "munge.socket").exists, 20)
        self.start_controller("-c")
        for node in ("cpus", "gpus"):
            self.start_node(node)
        self.wait(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 3, 60)

    def start_controller(self, *options: str) -> None:
        """Starts the controller, which knows its jobs again."""
        self._run("slurmctld", "-D", *options, "-f", str(self.configuration))

    def start_node(self, node: str) -> None:
        self._run("slurmd", "-D", "-N", node, "-f", str(self.configuration), name=node)

    def kill(self, daemon: str) -> None:
        """Kills `slurmctld` or the daemon of a node with SIGKILL."""
        self.daemons[daemon].kill()
        self.daemons[daemon].wait()

    def _write_settings(self) -> None:
        folder = self.folder
        host = socket.gethostname().split(".")[0]
        values = {"host": host, "folder": folder, "ports": _free_ports(3), "gpus": GPUS}
        self.configuration.write_text(SETTINGS.format(**values))
        # SLURM wants GPUs to be devices; these are /dev/null by another name.
        for number in range(GPUS):
            os.mknod(folder / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        gpus = f"NodeName=gpus Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n"
        (folder / "gres.conf").write_text(gpus)
        # Snakemake's job steps forget SLURM_CONF before they call srun.
        srun = folder / "bin" / "srun"
        real = shutil.which("srun")
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.configuration} exec {real} "$@"\n')
        srun.chmod(0o755)

    def _run(self, *command: str, name: str | None = None) -> None:
        name = name or command[0]
        with open(self.folder / f"{name}.log", "a") as log:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log
            )

    def ask(self, *command: str) -> str:
        """What one of SLURM's programs prints; nothing where it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30
        )
        return "" if done.returncode else done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """What scontrol knows of each job so far, finished ones too, in their order."""
        lines = self.ask("scontrol", "show", "job", "-o").splitlines()
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if "JobId=" in line]
        return sorted(found, key=lambda job: int(job["JobId"]))

    def wait(self, condition: Callable[[], object], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"the cluster takes longer than {seconds} s\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """The end of what each daemon says."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{file.name}:\n{file.read_text()[-1500:]}" for file in files)

    def stop(self) -> None:
        # Jobs first: what runs them outlives the daemons.
        try:
            self.ask("scancel", "-u", "root")
            self.wait(lambda: not self.ask("squeue", "-h").strip(), 15)
        finally:
            for daemon in reversed(self.daemons.values()):
                daemon.kill()
                daemon.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="session")
def cluster():
    """A running cluster."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons want to be started by root")
    # A short path, for the names of sockets may have 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    made = Cluster(folder)
    try:
        try:
            made.start()
        except PermissionError as error:
            pytest.skip(f"no device files can be made here: {error}")
        yield made
        made.stop()
    finally:
        for daemon in made.daemons.values():
            daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)
