"""What the checks of the Python package share: the package as it was just built, a cluster, and a list of checks.

The package is put together in a temporary folder from its sources and the compiled half, so that nothing needs to be installed.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "python" / "tenfour"
PATIENCE_S = 120
CHECKS = []


def check(function):
    """Registers a check."""
    CHECKS.append(function)
    return function


def package(native):
    """Makes `import tenfour` find the sources with this compiled half; without one, whatever is installed."""
    if native is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="tenfour-package-"))
    shutil.copytree(SOURCES, folder / "tenfour", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copyfile(native, folder / "tenfour" / "_native.abi3.so")
    sys.path.insert(0, str(folder))


def run(only, *arguments):
    """Runs the checks whose names contain `only`; the number of those that failed."""
    failed = 0
    chosen = [function for function in CHECKS if only in function.__name__]
    for function in chosen:
        began = time.monotonic()
        try:
            function(*arguments)
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"ok     {function.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} checks passed", flush=True)
    return failed if chosen else 1


def raises(kind, call, *arguments, **named):
    """Calls, and returns the exception, which must be of exactly this kind."""
    try:
        result = call(*arguments, **named)
    except BaseException as error:
        assert type(error) is kind, f"{type(error).__name__}: {error}, not {kind.__name__}"
        return error
    raise AssertionError(f"{kind.__name__} was expected, not {result!r}")


def eventually(what, holds, seconds=30):
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"never: {what}"
        time.sleep(0.02)


def is_let_go(buffer):
    """Whether nobody holds on to a buffer."""
    try:
        buffer.append(1)
    except BufferError:
        return False
    return True


class Cluster:
    """`tenfour up`, until it is stopped."""

    def __init__(self, program, rdma=None, more=()):
        self.folder = Path(tempfile.mkdtemp(prefix="tenfour-cluster-"))
        self.address = rdma or f"127.0.0.1:{free_port()}"
        command = [program, "up", "--end-with-stdin", "--segment", "8MiB", "--data", self.folder / "data"]
        command += ["--s3", f"127.0.0.1:{free_port()}", "--rdma", self.address, "--nodes", "3", *more]
        self.log = open(self.folder / "up.log", "w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        told = ""
        for line in self.process.stdout:
            told += line
            if "Try it" in line:
                break
        if self.process.poll() is not None or "Try it" not in told:
            raise RuntimeError(f"the cluster did not start: {told}\n{(self.folder / 'up.log').read_text()}")
        self.http = re.search(r"S3 +(http://\S+)", told)[1]
        self.endpoints = {
            "tcp": f"tcp:{self.address}",
            "verbs": f"verbs:{self.address}",
            "shm": re.search(r"(shm:\S+)", told)[1],
        }
        self.keys = {
            "access_key": re.search(r"access key +(\S+)", told)[1],
            "secret_key": re.search(r"secret key +(\S+)", told)[1],
        }

    def boto3(self, bucket, **config):
        """boto3 over HTTP, which knows nothing of this package, and a bucket that it made."""
        import boto3
        from botocore.config import Config

        s3 = boto3.client(
            "s3",
            endpoint_url=self.http,
            region_name="us-east-1",
            aws_access_key_id=self.keys["access_key"],
            aws_secret_access_key=self.keys["secret_key"],
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **config),
        )
        s3.create_bucket(Bucket=bucket)
        return s3

    def gateway(self):
        """The process that serves."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_text().split("\0")
                except OSError:
                    continue
                if words[1:2] == ["gateway"] and any(word.startswith(str(self.folder)) for word in words):
                    return int(entry.name)
        raise RuntimeError("no gateway process")

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Stopped:
    """Nothing moves in a process for a while."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGCONT)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
