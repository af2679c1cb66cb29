"""Real clusters on this machine: Slurm with two nodes, and Ray with a head and two nodes. Needs root; see tests/cluster.sh.

`python tests/clusters.py COMMAND...` starts Ray, runs the command there, and kills the first node on which a trial runs.
It has to be in a network of its own, because Ray listens on all addresses.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from nanobench.sweep.executors import base

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "squeue", "scancel", "sinfo")
CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
KillWait=2
MinJobAge=600
SlurmdTimeout=10
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def wait_until(what, condition, timeout_s=60.0):
    """What a condition gives as soon as it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


# Slurm
def free_ports(count):
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def slurm(folder):
    """A cluster whose files are all in one folder. Commands find it by the environment variable SLURM_CONF."""
    folder.mkdir(mode=0o700)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, ports=free_ports(3), host=socket.gethostname().split(".")[0]))
    ends = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{name}={folder}/munge.{end}" for name, end in ends.items()]
    commands = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-f", conf],
        *(["slurmd", "-D", "-f", conf, "-N", node] for node in NODES),
    ]
    before, os.environ["SLURM_CONF"] = os.environ.get("SLURM_CONF"), str(conf)
    running = []
    try:
        for command in commands:
            output = (folder / f"{command[0]}.out").open("a")
            running.append(subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT))
            wait_until("munged starts", (folder / "munge.socket").exists)
        wait_until("both nodes are idle", lambda: printed("sinfo", "-h", "-o", "%D %T") == "2 idle")
        yield
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            process.wait()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def printed(*command):
    """What a command prints; empty if it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def jobs(state):
    """The numbers of the jobs in a state."""
    return printed("squeue", "--noheader", f"--states={state}", "--format=%i").split()


def kill_job(number):
    """Kills what a job runs, as a crash does; Slurm itself sees that it failed."""

    def found():
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "submitit.core._submit" in process.cmdline() and process.environ().get("SLURM_JOB_ID") == number:
                    return process
        return None

    base.kill_with_descendants(wait_until("the job has a process", found).pid)


# Ray
def ray(command):
    """Runs a command beside a cluster, and kills the node that measures its first trial. Returns the command's exit code."""
    from ray.cluster_utils import Cluster

    memory = 80 << 20
    head = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": memory})
    nodes = [
        cluster.add_node(node_ip_address=f"127.0.0.{3 + n}", num_cpus=2, num_gpus=0, object_store_memory=memory, wait=False)
        for n in (0, 1)
    ]
    try:
        done = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": cluster.address})
        pids = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
        node = wait_until("a trial runs on a node", lambda: done.poll() is not None or node_at_work(pids), 120)
        assert done.poll() is None, "the command ended before a node could be killed"
        cluster.remove_node(node, allow_graceful=False)
        print("a node was killed", flush=True)
        return done.wait()
    finally:
        cluster.shutdown()


def node_at_work(pids):
    """The node on which a worker measures a trial."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, StopIteration):
            words = process.cmdline()
            if "nanobench.worker" in words and '"trial"' in Path(words[3]).read_text():
                return next(pids[each.pid] for each in process.parents() if each.pid in pids)
    return None


def missing_programs():
    """Programs of Slurm that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


if __name__ == "__main__":
    sys.exit(ray(sys.argv[1:]))
