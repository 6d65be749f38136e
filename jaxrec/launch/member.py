"""One of several processes of a program: joins the others, then runs a module as `python -m` does.

    srun python -m jaxrec.launch.member experiments.sequential.sasrec --num-devices 16

Where `jaxrec.launch` did not start it, JAX finds the other processes itself (Slurm, Open MPI, Cloud TPU), or
the variables below name them.
"""

from __future__ import annotations

import os
import re
import runpy
import sys

import jax

COORDINATOR, PROCESSES, PROCESS = "JAXREC_COORDINATOR", "JAXREC_PROCESSES", "JAXREC_PROCESS"
CPU_DEVICES = "JAXREC_CPU_DEVICES"
HEARTBEAT = 30  # seconds without a sign of life after which JAX ends the others, on other hosts too
PATIENCE = 120  # seconds to wait for all to start
_VIRTUAL = re.compile(r"--xla_force_host_platform_device_count=\d+")


def settings(coordinator: str, processes: int, process: int, devices: int) -> dict[str, str]:
    """The environment variables of one process. coordinator: host:port of process 0. devices: see `join`."""
    found = {COORDINATOR: coordinator, PROCESSES: str(processes), PROCESS: str(process)}
    if devices:
        found[CPU_DEVICES] = str(devices)
        found["XLA_FLAGS"] = _VIRTUAL.sub("", os.environ.get("XLA_FLAGS", "")).strip()
    return found


def join() -> None:
    """Joins the processes that the environment names; before anything uses a device.

    JAXREC_CPU_DEVICES: virtual devices of this process on a CPU.
    """
    devices, coordinator = os.environ.get(CPU_DEVICES), os.environ.get(COORDINATOR)
    if devices:
        jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=coordinator,
        num_processes=int(os.environ[PROCESSES]) if coordinator else None,
        process_id=int(os.environ[PROCESS]) if coordinator else None,
        initialization_timeout=PATIENCE,
        heartbeat_timeout_seconds=HEARTBEAT,
    )


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print("jaxrec.launch.member: error: name a module and its options", file=sys.stderr)
        raise SystemExit(2)
    module, sys.argv = sys.argv[1], sys.argv[1:]
    join()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
