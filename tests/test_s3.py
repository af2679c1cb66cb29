"""A run in S3, against a server of its own (moto): written, read, continued, and the server killed in the midst of a sweep.

The server is a program, so that its dependencies need not fit to ours: `pip install 'moto[server]'` into any environment
whose bin/ is in PATH.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import SMALL
from nanobench import load
from nanobench.results.place import Place

SERVER = shutil.which("moto_server") or shutil.which("moto_server", path=str(Path(sys.executable).parent))
TINY = (*SMALL, "--model", "fakes:tiny", "--launches", "2", "--batch", "1,2")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(SERVER is None, reason="moto_server is not in PATH; pip install 'moto[server]' into any environment"),
]


@pytest.fixture(autouse=True)
def access(tmp_path, monkeypatch):
    """Keys, and a cache of the test's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NANOBENCH_CACHE", str(tmp_path / "cache"))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Moto:
    """The server's process."""

    def __init__(self, **variables):
        self.port = free_port()
        self.process = subprocess.Popen(
            [SERVER, "-H", "127.0.0.1", "-p", str(self.port)],
            env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def request(self, method, path):
        call = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(call, timeout=10) as answer:
            return answer.read()

    def started(self):
        for _ in range(300):
            try:
                self.request("GET", "/moto-api/")
                return self
            except OSError:
                time.sleep(0.1)
        raise AssertionError("moto_server does not start")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Proxy:
    """Stands before a server, and dies on demand: at once, or after the first bytes of a file that is being written."""

    def __init__(self, target):
        self.target, self.port, self.dies_at = target, free_port(), None
        self.revive()

    def revive(self):
        self.dies_at, self.open = None, []
        self.listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listening,), daemon=True).start()

    def die(self):
        # Without shutdown, a thread that waits in accept() would keep the socket open.
        for each in [self.listening, *self.open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def accept(self, listening):
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            self.open += [client, server]
            threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, False), daemon=True).start()

    def pump(self, source, sink, asks):
        left = None
        try:
            while data := source.recv(65536):
                if asks and left is None and self.dies_at and data.startswith(b"PUT ") and self.dies_at in data[:500]:
                    # The head and the first part of the body.
                    left = 2000
                if left is not None:
                    sink.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        time.sleep(0.2)
                        self.die()
                        return
                else:
                    sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server():
    moto = Moto().started()
    yield moto
    moto.kill()


@pytest.fixture
def bucket(server, request):
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    server.request("PUT", f"/{name}")
    return name


def uri_of(bucket, port, name="run"):
    return f"s3://{bucket}/{name}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def objects(uri):
    from nanobench.results import place

    return sorted(place.at(uri).files())


def raw(uri):
    return [name for name in objects(uri) if name.startswith("raw/")]


def one_line(done):
    (line,) = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stdout + done.stderr
    return line


def test_a_run_is_written_read_compared_and_repaired(nanobench_here, server, bucket, tmp_path, no_plots):
    uri = uri_of(bucket, server.port, "runs/one")
    done = nanobench_here("kv-sweep", *TINY, "--out", uri, "--json", cwd=tmp_path, code=0)
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert document["run"] == uri
    assert {"cells.arrow", "cells.parquet", "journal.jsonl", "run.json"} <= set(objects(uri))
    assert len(raw(uri)) == 4
    shutil.rmtree(tmp_path / "cache")
    chosen = load(uri, columns=["arm", "speedup"], filters=[("batch_size", "==", 2)])
    assert list(chosen["arm"]) == ["uncached", "cached"]
    assert not list((tmp_path / "cache").rglob("*.parquet")), "no raw file is fetched for stored cells"
    second = uri_of(bucket, server.port, "runs/two")
    nanobench_here("kv-sweep", *TINY, "--out", second, cwd=tmp_path, code=0)
    assert len(load(uri_of(bucket, server.port, "runs"))) == 8
    nanobench_here("report", uri, cwd=tmp_path, code=0)
    assert {"report.html", "report.md"} <= set(objects(uri))
    history = nanobench_here("history", uri_of(bucket, server.port, "runs"), "--json", cwd=tmp_path, code=0)
    assert [each["run"] for each in json.loads(history.stdout.strip().splitlines()[-1])] == [uri, second]
    compared = nanobench_here("compare", uri, second, "--json", cwd=tmp_path)
    assert compared.returncode in (0, 1, 3), compared.stderr
    assert json.loads(compared.stdout.strip().splitlines()[-1])["rows"]
    nanobench_here("export", uri, cwd=tmp_path, code=0)
    nanobench_here("doctor", uri, cwd=tmp_path, code=0)
    refused = one_line(nanobench_here("kv-sweep", *TINY, "--out", uri, cwd=tmp_path, code=2))
    assert "holds another run" in refused
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_a_server_that_dies_while_a_file_is_written_leaves_no_half_and_the_sweep_continues(
    nanobench_here, server, bucket, tmp_path, monkeypatch
):
    proxy = Proxy(server.port)
    uri, there = uri_of(bucket, proxy.port), uri_of(bucket, server.port)
    put = Place.put_bytes

    def armed(self, data, name, once):
        if name.startswith("raw/") and raw(there):
            proxy.dies_at = name.encode()
        return put(self, data, name, once)

    monkeypatch.setattr(Place, "put_bytes", armed)
    line = one_line(nanobench_here("kv-sweep", *TINY, "--out", uri, cwd=tmp_path, code=2))
    assert line.startswith("the sweep stopped: the server does not answer")
    assert "2 finished trials are kept in " in line
    assert f"1 of them published; continue on this machine with: nanobench kv-sweep --resume '{uri}'" in line
    assert len(raw(there)) == 1, "nothing half-visible"
    assert set(load(there)["launches_ok"]) == {1}
    first = load(there)
    monkeypatch.setattr(Place, "put_bytes", put)
    proxy.revive()
    nanobench_here("kv-sweep", "--resume", uri, "--no-plot", cwd=tmp_path, code=0)
    assert len(raw(there)) == 4
    done = load(there)
    assert set(done["launches_ok"]) == {2}
    assert set(first["batch_size"]) <= set(done["batch_size"])
    proxy.die()


def test_a_server_that_is_killed_is_one_line_and_costs_no_trial(nanobench_here, tmp_path, monkeypatch):
    moto = Moto().started()
    moto.request("PUT", "/bucket")
    count, put = [], Place.put_bytes

    def killing(self, data, name, once):
        count.append(name)
        if sum(each.startswith("raw/") for each in count) == 2:
            moto.kill()
        return put(self, data, name, once)

    monkeypatch.setattr(Place, "put_bytes", killing)
    uri = uri_of("bucket", moto.port)
    try:
        line = one_line(nanobench_here("kv-sweep", *TINY, "--out", uri, cwd=tmp_path, code=2))
    finally:
        moto.kill()
    assert line.startswith("the sweep stopped: the server does not answer")
    assert len(list((tmp_path / "cache").rglob("raw/*.parquet"))) == 2
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_no_server_no_bucket_and_no_access_are_one_line_each(nanobench_here, server, tmp_path):
    nowhere = uri_of("bucket", free_port())
    assert "the server does not answer" in one_line(nanobench_here("report", nowhere, cwd=tmp_path, code=2))
    missing = uri_of("missing-bucket", server.port)
    for command in (("report", missing), ("kv-sweep", *TINY, "--out", missing), ("kv-sweep", "--resume", missing)):
        line = one_line(nanobench_here(*command, cwd=tmp_path, code=2))
        assert "bucket 'missing-bucket' does not exist; make it" in line, line
    locked = Moto(INITIAL_NO_AUTH_ACTION_COUNT="1").started()
    try:
        locked.request("PUT", "/bucket")
        line = one_line(nanobench_here("report", uri_of("bucket", locked.port), cwd=tmp_path, code=2))
        assert "access is denied; set AWS_ACCESS_KEY_ID" in line, line
    finally:
        locked.kill()


def test_a_bucket_may_be_made(nanobench_here, server, tmp_path):
    uri = f"{uri_of('new-bucket', server.port)}&allow_bucket_creation=true"
    nanobench_here("kv-sweep", *SMALL, "--batch", "1", "--launches", "1", "--out", uri, cwd=tmp_path, code=0)
    assert len(raw(uri)) == 1
