"""Commands in processes of their own that start at once: forks of a server that has imported what they need.

A new Python would import for some seconds, torchrun as often as it has processes; and it would have the ResNets.
"""

import multiprocessing
import os
import sys
import time
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch.distributed as dist
from tiny_encoders import tiny

from utils import cli

SERVER = "forkserver"
CONTEXT = multiprocessing.get_context(SERVER)
CONTEXT.set_forkserver_preload(["main_CD", "main_SSW", "main_Vox", "scripts.prepare_cremad", "scripts.prepare_ssw60",
                                "scripts.sweep"])


def start_command(script: str, *argv: str, output: Path, **variables: str) -> ForkServerProcess:
    """`python script.py argv...` with the small networks; what it prints goes to `output`. script: a module's name;
    variables: of its environment."""
    process = CONTEXT.Process(target=run, args=(script, argv, output, variables))
    process.start()
    return process


def run(script: str, argv: tuple[str, ...], output: Path, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    sys.argv = [f"{script}.py", *argv]
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    with tiny():
        cli.run(import_module(script).main)


def status_at_end(process: ForkServerProcess) -> int:
    """Its exit status, when it has ended."""
    process.join()
    return process.exitcode


def run_together(script: str, *argv: str, folder: Path, processes: int = 2) -> list[int]:
    """The same in as many processes as torchrun would start, with its variables -> their exit statuses. What they print
    goes to 0.txt, 1.txt ... in `folder`."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent has it
    shared = {"TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "localhost",
              "MASTER_PORT": str(store.port), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    running = [start_command(script, *argv, output=folder / f"{rank}.txt", **shared, RANK=rank, LOCAL_RANK=rank)
               for rank in map(str, range(processes))]
    while any(one.exitcode is None for one in running) and not any(one.exitcode for one in running):
        time.sleep(0.01)
    for one in running:  # after a failure the others would wait for it
        one.kill()
    return [status_at_end(one) for one in running]
