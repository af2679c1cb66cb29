"""A folder that a URI names, in an object store like S3 or in another file system: its files are read and written whole."""

import errno
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pyarrow as pa

from nanobench.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
FORMS = "a URI is like s3://bucket/run, gs://bucket/run or file:///folder/run"
WHOLE_AT_CLOSE = ("s3", "gcs", "abfs")
"""Types of file systems where what is written can be seen only when the last byte of it is there."""
AT_ONCE = 8
"""Files that are fetched at the same time."""
LONGEST_S = 60.0
"""So long an interrupt waits for the end of a file that is being written."""
TRIES = 3
"""So often a file is read that changes meanwhile."""
NO_ANSWER = re.compile(
    r"curl ?(code|error)|NETWORK_CONNECTION|UNAVAILABLE|could not (connect|resolve)|connection (refused|reset)|time(d )?_?out",
    re.IGNORECASE,
)
DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|UNRECOGNIZED_CLIENT|TOKEN|CREDENTIALS"
    r"|HTTP (status|response code) 40[13]|Forbidden|Permission denied",
    re.IGNORECASE,
)
NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist", re.IGNORECASE)
SECRETS = {"sig", "client_secret", "access_key", "secret_key", "session_token"}
"""Options of URIs that are keys."""
KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or write gs://anonymous@bucket for a public bucket",
}
"""Scheme -> how a process gets access."""
VENDOR = Path("/sys/class/dmi/id/sys_vendor")


class State(NamedTuple):
    """What tells one version of a file from another."""

    size: int
    mtime_ns: int


class Refused(OSError):
    """A file cannot be written at a place, or not any more."""


def is_uri(text: object) -> bool:
    """Whether a text names a place by its URI, and not a folder of this machine by its path."""
    return isinstance(text, str) and URI.match(text) is not None


@dataclass(frozen=True)
class Place:
    """A folder of a file system. What reads raises UserError, and what writes raises Refused, where that is impossible."""

    uri: str
    filesystem: "FileSystem" = field(compare=False, repr=False)
    path: str
    """in the words of the file system"""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def uri_of(self, name: str) -> str:
        """The URI of something below it."""
        parts = urlsplit(self.uri)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}").geturl() if name else self.uri

    def below(self, name: str) -> "Place":
        """A folder below it; itself for an empty name."""
        return Place(self.uri_of(name), self.filesystem, f"{self.path}/{name}") if name else self

    def files(self) -> dict[str, State]:
        """The files below it, with their names as seen from here. Raises UserError where its bucket does not exist."""
        from pyarrow.fs import FileSelector, FileType

        with self.reading(""):
            found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True, recursive=True))
            if not found:
                self.refuse_missing_bucket()
        start = len(self.path) + 1
        files = {each.path[start:]: state_of(each) for each in found if each.type == FileType.File}
        # A name that leads out of a folder would lead out of its copy too.
        return {name: state for name, state in files.items() if not {"", ".", ".."} & set(name.split("/"))}

    def refuse_missing_bucket(self) -> None:
        """Raises FileNotFoundError in an object store without the bucket, unless the bucket may be made."""
        from pyarrow.fs import FileType

        bucket = self.path.partition("/")[0]
        if self.is_object_store and self.filesystem.get_file_info(bucket).type == FileType.NotFound:
            if dict(parse_qsl(urlsplit(self.uri).query)).get("allow_bucket_creation", "").lower() == "true":
                self.filesystem.create_dir(bucket)
                return
            raise FileNotFoundError(f"bucket does not exist: {bucket}")

    @property
    def is_object_store(self) -> bool:
        """Whether it has objects in buckets, and no folders."""
        return self.filesystem.type_name in WHOLE_AT_CLOSE

    def read(self, name: str) -> bytes:
        """What a file holds. Raises UserError where it cannot be read."""
        with self.reading(name), self.filesystem.open_input_file(f"{self.path}/{name}") as file:
            return bytes(file.read())

    def fetch(self, name: str, state: State, target: Path) -> State:
        """Writes a copy with the state of the original, whole or not at all. Returns that state: a file that is written again
        meanwhile has another than was known. Raises UserError where it cannot be read.
        """
        for _ in range(TRIES):
            data = self.read(name)
            if len(data) == state.size:
                break
            with self.reading(name):
                state = state_of(self.filesystem.get_file_info(f"{self.path}/{name}"))
        else:
            raise UserError(f"{self.uri_of(name)} changes while it is read; run the command again")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            part.write_bytes(data)
            os.utime(part, ns=(state.mtime_ns, state.mtime_ns))
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return state

    def put(self, file: Path, name: str, once: bool = False) -> State:
        """Writes a file of this machine, whole or not at all; `once`: never over one that is there. Returns its state.

        Raises Refused where that is impossible. An interrupt comes before it or after it.
        """
        data = file.read_bytes()
        return to_the_end(lambda: self.put_bytes(data, name, once))

    def put_bytes(self, data: bytes, name: str, once: bool) -> State:
        """The same of bytes. An interrupt in the midst of it would leave a part of them."""
        from pyarrow.fs import FileType

        target = f"{self.path}/{name}"
        with self.writing(name):
            if once and self.filesystem.get_file_info(target).type != FileType.NotFound:
                raise Refused(errno.EEXIST, "is there already: another process measures into this run", self.uri_of(name))
            self.write(target, data)
            found = self.filesystem.get_file_info(target)
            if found.size != len(data):
                raise Refused(errno.EREMOTEIO, "was not written whole", self.uri_of(name))
            return state_of(found)

    def write(self, target: str, data: bytes) -> None:
        """Writes bytes under a path: at once where they appear when it is closed, else beside it first."""
        if self.is_object_store:
            # One write: a stream that is closed after a part of them would make that part visible.
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)
            return
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        part = f"{target}.part"
        try:
            with self.filesystem.open_output_stream(part) as stream:
                stream.write(data)
            self.filesystem.move(part, target)
        except BaseException:
            with suppress(OSError):
                self.filesystem.delete_file(part)
            raise

    def delete(self, name: str) -> None:
        """Deletes a file. Raises Refused where that is impossible."""
        with self.writing(name):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def move(self, name: str, to: str) -> None:
        """Gives a file another name. Raises Refused where that is impossible."""
        with self.writing(name):
            self.filesystem.move(f"{self.path}/{name}", f"{self.path}/{to}")

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Turns what a file system raises into a UserError."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.uri_of(name)}: {self.cause(error)}") from error

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Turns what a file system raises into Refused."""
        try:
            yield
        except Refused:
            raise
        except (OSError, pa.ArrowException) as error:
            raise Refused(errno.EREMOTEIO, self.cause(error), self.uri_of(name)) from error

    def cause(self, error: Exception) -> str:
        """What a file system says, in one line, with what helps."""
        whole, bucket = " ".join(str(error).split()), self.path.partition("/")[0]
        # Not what the path itself says: it may be that of a study of timeouts or tokens.
        text = whole.replace(self.path, "")
        if NO_BUCKET.search(text):
            return f"bucket {bucket!r} does not exist; make it, or give the name of another"
        if NO_ANSWER.search(text):
            return "the server does not answer; check the network, and endpoint_override in the URI"
        if self.is_object_store and DENIED.search(text):
            keys = KEYS.get(urlsplit(self.uri).scheme, "set the keys of the store in the environment")
            return f"access is denied; {keys}"
        return whole[:300]


def to_the_end(call: Callable[[], State]) -> State:
    """Runs a call in a thread of its own, which no signal interrupts, and waits for its end in any case."""
    found: Future[State] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=run)
    try:
        thread.start()
        return found.result()
    except KeyboardInterrupt:
        if thread in threading.enumerate():
            wait([found], LONGEST_S)
        raise


def state_of(found: Any) -> State:
    """The state of a file, from what a file system says of it."""
    return State(found.size, found.mtime_ns or 0)


def at(uri: str) -> Place:
    """The place of a URI. Raises UserError for one that is wrong, or whose server cannot be used."""
    filesystem, path = opened(uri)
    parts = urlsplit(uri)
    if not path.strip("/"):
        raise UserError(f"{uri} names no folder; {FORMS}")
    return Place(parts._replace(path=parts.path.rstrip("/")).geturl(), filesystem, path.rstrip("/"))


@lru_cache
def opened(uri: str) -> tuple[Any, str]:
    """The file system of a URI, with the options that pyarrow reads from it, and the path in it."""
    from pyarrow.fs import FileSystem

    try:
        refuse_keys(uri)
        prepare_environment()
        return FileSystem.from_uri(with_options(uri))
    except (OSError, ValueError, pa.ArrowException) as error:
        text = " ".join(str(error).split())
        why = "the server does not answer; check the network" if NO_ANSWER.search(text) else text[:300]
        raise UserError(f"{uri} cannot be opened: {why}; {FORMS}") from None


def refuse_keys(uri: str) -> None:
    """Raises UserError for a URI with a secret in it; the message does not repeat it."""
    parts = urlsplit(uri)
    named = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)} & SECRETS
    if parts.password or named or (parts.username and parts.scheme == "s3"):
        clean = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        keys = KEYS.get(parts.scheme, "set them in the environment")
        raise UserError(f"{clean}: keys do not belong into a URI, which is printed and kept in run.json; {keys}")


def prepare_environment() -> None:
    """Off Amazon EC2 nobody answers for its instances: asking for keys there would only take time."""
    try:
        is_ec2 = "amazon" in VENDOR.read_text(errors="replace").lower()
    except OSError:
        is_ec2 = False
    if not is_ec2:
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


def with_options(uri: str) -> str:
    """A URI with options that it leaves out: the region of S3, for which pyarrow would need a server, and for how long
    Google's storage is tried again.
    """
    parts = urlsplit(uri)
    given = parse_qsl(parts.query)
    names = {name for name, _ in given}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} & set(os.environ):
        region = region or "us-east-1"
    if parts.scheme == "s3" and region and not {"region", "endpoint_override"} & names:
        given.append(("region", region))
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in names:
        given.append(("retry_limit_seconds", "10"))
    return parts._replace(query=urlencode(given)).geturl() if len(given) > len(names) else uri


def together(calls: "list[Callable[[], None]]") -> None:
    """Runs calls that wait for a server, some of them at the same time. Raises what the first of them raises."""
    if len(calls) < 2:
        for call in calls:
            call()
        return
    with ThreadPoolExecutor(AT_ONCE) as threads:
        try:
            for waiting in [threads.submit(call) for call in calls]:
                waiting.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
