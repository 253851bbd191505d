# SPDX-License-Identifier: Apache-2.0
"""Dask clusters that are used: one that runs, or one that Slurm is asked for. Messages of Dask are pickles, so that all
that can be reached from other computers must be encrypted, and known by certificates."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..support.errors import InputError
from ..version import __version__
from .slurm import Slurm, slurm_time

_INSTALL = 'Install it: pip install "deepflash-registration[cluster]"'
# Dask's own default is every network.
_SCHEDULER = "--host 127.0.0.1 --dashboard-address 127.0.0.1:8787"
_WORKER = "--host 127.0.0.1 --dashboard-address 127.0.0.1:0 --nthreads 1"
_CONNECT_SECONDS = 10
# A worker ends by itself so long before Slurm would end it, and never takes more than this part of its time.
_LIFETIME_SECONDS, _LIFETIME_PART = 120, 0.9


@contextlib.contextmanager
def running_scheduler(address: str) -> Iterator[Any]:
    """A client of a scheduler that runs.

    Raises:
        InputError: it may be reached by anybody, or does not answer; Dask is missing.
    """
    checked_address(address)
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"--scheduler {address}: cannot be used ({why}). Start one with: dask scheduler {_SCHEDULER}; for tls:// "
            "name the certificates (docs/cohorts.md)."
        ) from error
    with client:
        workers = client.nthreads()
        if not workers:
            raise InputError(f"--scheduler {address}: has no workers. Start some: dask worker {address} {_WORKER}")
        for worker in workers:
            checked_address(worker, f"--scheduler {address}: its worker {worker}")
        check_program(client)
        yield client


def check_program(client: Any, package: str = __package__.partition(".")[0], version: str = __version__) -> None:
    """InputError unless scheduler and workers have this program: Dask would wait for ever for one that has it not."""

    # A function within a function travels whole, without the file that it stands in.
    def found() -> str:
        import importlib

        try:
            return importlib.import_module(f"{package}.version").__version__
        except ImportError:
            return ""

    for address, there in {"the scheduler": client.run_on_scheduler(found), **client.run(found)}.items():
        if there != version:
            has = f"has version {there} of" if there else "lacks"
            raise InputError(
                f"--scheduler: {address} {has} this program, and the command is of version {version}. Install the same "
                "where they run, and start them again."
            )


def checked_address(address: str, what: str = "") -> None:
    """InputError for the address of a scheduler or worker that others can reach without certificates."""
    what = what or f"--scheduler {address}"
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme in ("tls", "inproc"):
        return
    if parts.scheme != "tcp" or not parts.hostname:
        raise InputError(f"{what}: is no address such as tcp://127.0.0.1:8786 or tls://node1:8786.")
    if not _is_loopback(parts.hostname):
        raise InputError(
            f"{what}: whoever reaches it runs what he likes in your name. Use tls:// with certificates "
            "(docs/cohorts.md), or let all of it listen on 127.0.0.1 and reach it by a tunnel: "
            f"ssh -L 8786:127.0.0.1:8786 {parts.hostname}, and --scheduler tcp://127.0.0.1:8786."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def slurm_cluster(slurm: Slurm, state: Path) -> Iterator[Any]:
    """A client of a scheduler in this process, with workers that Slurm runs; both end with it.

    Between the nodes all goes by TLS, by a key that is made for this run alone.

    Args:
        state: a folder that all nodes see, for the key and what workers print.

    Raises:
        InputError: there is no sbatch, no such interface, or no Dask.
    """
    check_slurm(slurm, state)
    distributed = _distributed()
    slurm_of_dask = _slurm_of_dask()
    lifetime = int(max(_LIFETIME_PART * slurm.walltime, slurm.walltime - _LIFETIME_SECONDS))
    with tempfile.TemporaryDirectory(prefix="keys-", dir=state) as keys:
        cluster = slurm_of_dask(
            cores=1,
            processes=1,
            job_cpu=slurm.cores,
            memory=f"{slurm.megabytes}MiB",
            walltime=slurm_time(slurm.walltime),
            interface=slurm.interface,
            protocol="tls://",
            security=_security(distributed, Path(keys)),
            log_directory=str(state / "slurm"),
            job_extra_directives=slurm.more,
            worker_extra_args=["--dashboard-address", "127.0.0.1:0", "--lifetime", f"{lifetime}s"],
            scheduler_options={"interface": slurm.interface, "dashboard_address": "127.0.0.1:0"},
        )
        with cluster:
            # Workers that their walltime, or somebody with more rights, has ended are asked for again.
            cluster.adapt(minimum_jobs=slurm.jobs, maximum_jobs=slurm.jobs)
            with distributed.Client(cluster, set_as_default=False) as client:
                yield client


def _slurm_of_dask() -> Any:
    """The class of clusters; Ctrl-C stays with whom it is, though the module takes it when it is imported."""
    handler = signal.getsignal(signal.SIGINT)
    from dask_jobqueue import SLURMCluster

    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGINT, handler)
    return SLURMCluster


def _security(distributed: Any, folder: Path) -> Any:
    """Encryption by a key and certificate made for one run, which lie in a folder that only this user may read."""
    made = distributed.Security.temporary()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    for path, text in ((key, made.tls_scheduler_key), (certificate, made.tls_scheduler_cert)):
        path.touch(mode=0o600)
        path.write_text(text, encoding="ascii")
    roles = {
        f"tls_{role}_{what}": str(file)
        for role in ("client", "scheduler", "worker")
        for what, file in (("key", key), ("cert", certificate))
    }
    return distributed.Security(require_encryption=True, tls_ca_file=str(certificate), **roles)


def check_slurm(slurm: Slurm, state: Path) -> None:
    """InputError if Slurm cannot be asked for workers of Dask from here."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "--cluster slurm: there is no sbatch on this computer. Run this on a login node of the cluster; or take "
            "--print-sbatch to it, or leave --cluster away to work here."
        )
    _distributed()
    if importlib.util.find_spec("dask_jobqueue") is None or importlib.util.find_spec("cryptography") is None:
        raise InputError(f"--cluster slurm: needs dask-jobqueue and cryptography. {_INSTALL}")
    import psutil  # which Dask brings

    names = sorted(psutil.net_if_addrs())
    if slurm.interface not in names:
        raise InputError(
            f"--interface {slurm.interface or '(none)'}: name the network interface by which the nodes reach this "
            f"computer, one of {', '.join(names)}."
        )
    if len(str(state.absolute()).split()) > 1:
        raise InputError(f"{state.parent}: has a blank in its name, which workers on other nodes are not told rightly.")


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise InputError(f"--scheduler and --cluster need Dask. {_INSTALL}") from error
    return distributed
