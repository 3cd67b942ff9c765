"""Training on several devices of this machine: one process each, started from here.

The processes are spawned, so neither the caller's script nor its command line runs again; a script needs the usual
`if __name__ == "__main__":`. Each builds the method anew from its arguments and weights, as loading does, and the
first sends the fitted weights back.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save

from pinakes.data.base import TaskData
from pinakes.engine.interrupts import Interrupted, interrupts
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.runs import load_tensors
from pinakes.engine.watch import Diverged
from pinakes.errors import UserError
from pinakes.nn.backbones import without_weights

if TYPE_CHECKING:
    from pinakes.method import Method

PATIENCE = 0.2
"""Seconds between two looks for Ctrl-C while the processes train."""
GRACE = 5.0
"""Seconds that a process gets to end before it is killed."""


@dataclass(frozen=True)
class Outcome:
    """What one process reports.

    Args:
        weights: The fitted weights as safetensors, from the first process.
        error: What stopped it, if anything did.
        trace: Where that happened.
    """

    weights: bytes | None = None
    error: BaseException | None = None
    trace: str = ""


def train_in_processes(
    method: "Method", data: TaskData, plan: TrainingPlan, resume_from: Path | None
) -> None:
    """Trains in `plan.devices` processes and loads the result into `method`.

    Raises:
        UserError: If the method's class or the data cannot be sent to another process.
        Diverged: If training diverged; the method then holds the last good weights.
        Interrupted: On Ctrl-C, after the step in progress.
    """
    method.to("cpu")
    weights = _packed(method)
    try:
        payload = pickle.dumps((type(method), method.options, method.info, weights, data, plan, resume_from))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"devices: the method or its data cannot be sent to other processes ({error}); define their classes "
            "in a module, or use one device"
        ) from error
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    port = _free_port()
    with interrupts() as pressed, _started(context, plan.devices, (payload, port, stop)) as readers:
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < plan.devices and not any(_is_crash(each) for each in outcomes.values()):
            for reader in wait(
                [reader for rank, reader in readers.items() if rank not in outcomes], PATIENCE
            ):
                rank = next(rank for rank, each in readers.items() if each is reader)
                outcomes[rank] = _received(rank, readers[rank])
            if pressed():
                stop.set()
    first = outcomes.get(0)
    if first is not None and first.weights is not None:
        load_tensors(method, load(first.weights))
    for outcome in sorted(outcomes.values(), key=_is_crash, reverse=True):
        if outcome.error is not None:
            if outcome.trace:
                outcome.error.add_note(outcome.trace)
            raise outcome.error


@contextmanager
def _started(
    context: multiprocessing.context.SpawnContext, count: int, work: tuple[bytes, int, Event]
) -> Iterator[dict[int, Connection]]:
    """Runs the processes of the block, and ends those that are left behind it."""
    processes: list[SpawnProcess] = []
    readers = {}
    try:
        with _silent_reducer():
            for rank in range(count):
                readers[rank], writer = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(rank, count, writer, *work))
                process.start()
                writer.close()
                processes.append(process)
        yield readers
        for process in processes:
            process.join(GRACE)
    finally:
        for end in (SpawnProcess.terminate, SpawnProcess.kill):
            for process in processes:
                if process.is_alive():
                    end(process)
            for process in processes:
                process.join(GRACE)


@contextmanager
def _silent_reducer() -> Iterator[None]:
    """Keeps torch's advice on a search for unused parameters out of the processes started in the block."""
    if "TORCH_CPP_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    try:
        yield
    finally:
        del os.environ["TORCH_CPP_LOG_LEVEL"]


def _received(rank: int, reader: Connection) -> Outcome:
    try:
        outcome: Outcome = reader.recv()
    except EOFError:
        return Outcome(
            error=RuntimeError(
                f"training process {rank} ended without a result; its own message is above. A script that trains "
                "on several devices needs `if __name__ == '__main__':`"
            )
        )
    return outcome


def _is_crash(outcome: Outcome) -> bool:
    """Whether a process failed alone, so that the others wait for it in vain."""
    return outcome.error is not None and not isinstance(outcome.error, Diverged | Interrupted)


def _work(rank: int, count: int, writer: Connection, payload: bytes, port: int, stop: Event) -> None:
    """What each process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        outcome = _train(rank, payload, stop)
    except Exception as error:
        outcome = Outcome(error=error, trace=traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            outcome = Outcome(error=RuntimeError(f"training process {rank} failed"), trace=outcome.trace)
    writer.send(outcome)
    writer.close()


def _train(rank: int, payload: bytes, stop: Event) -> Outcome:
    from pinakes.engine.seeds import isolated
    from pinakes.engine.training import train_here

    kind, options, info, weights, data, plan, resume_from = pickle.loads(payload)
    method: Method = kind(**options)
    with without_weights():
        method.prepare(info, seed=plan.seed)
    with isolated(plan.seed):
        method.ready(data, plan)
    load_tensors(method, load(weights))
    error = None
    with isolated(plan.seed):
        try:
            train_here(method, data, plan, resume_from, stop.is_set)
        except (Diverged, Interrupted) as stopped:
            error = stopped
    return Outcome(weights=_packed(method) if rank == 0 else None, error=error)


def _packed(method: "Method") -> bytes:
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in method.state_dict().items()}
    return save(tensors)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, whatever took it away."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port
