"""
Fetch a file over HTTP: resumed where it broke off, verified, and never half a file under its final name.

What is fetched, and where it is kept, is for others to say (pretrained/, prepare_*.py).

    path = download("https://.../model.safetensors", sha256="248d...", size=548105171)

Files go to ~/.cache/nanococonut, or to the folder in the environment variable NANOCOCONUT_CACHE. Until it is complete
a file is called `path + ".part"`: that survives ^C, a full disk and a lost connection, and the next call goes on there.
Of several processes that want one file, as those of torchrun do, one downloads it while the others wait for it.
"""

import hashlib
import os
import re
import sys
import time
import uuid
from contextlib import contextmanager, suppress

import requests

from config import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TIMEOUT = 10, 30  # seconds to connect, and to wait for the next bytes
RETRIES = 5  # after failures that may pass
BACKOFF = 1.0  # seconds before the first retry, twice as many before each further one
CHUNK = 1 << 16  # bytes; up to so many are lost when a connection breaks
MAY_PASS = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError


def mismatch(path, sha256, size):
    """How a file differs from the sha256 and the size expected of it (None: any), in words; "" if it does not."""
    found = os.path.getsize(path)
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if sha256 is not None:
        digest = hashlib.sha256()
        with open(path, "rb") as f:
            while chunk := f.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != sha256.lower():
            return f"its sha256 is {digest.hexdigest()}, expected {sha256.lower()}"
    return ""


def extent(response, have):
    """(the first byte that a response brings, bytes of the whole file); None for a wrong range, and if not known."""
    status, headers = response.status_code, response.headers
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    if status == 206 and found and int(found[1]) in (0, have):
        return int(found[1]), int(found[2])
    if status in (206, 416) and have:
        return None, None
    if status != 200:
        kind = requests.ConnectionError if status == 429 or status >= 500 else requests.HTTPError
        raise kind(f"the server answers {status} {response.reason}")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise requests.HTTPError(f"the server sends it compressed ({headers['Content-Encoding']})")
    length = headers.get("Content-Length", "")  # a chunked response has none
    return 0, int(length) if length.isdecimal() else None


def show_progress(part, first, have, total, began, last=False):
    """One line on stderr of at most 79 columns, renewed on a terminal; all in bytes, began by time.monotonic()."""
    rate = (have - first) / max(time.monotonic() - began, 1e-6)
    text = f"  {have / 1e6:.1f} MB  {rate / 1e6:.1f} MB/s"
    if total:
        left = int((total - have) / max(rate, 1))
        text = f"  {have / total:4.0%}  {have / 1e6:.1f} of {total / 1e6:.1f} MB  {rate / 1e6:.1f} MB/s"
        text += "" if last else f"  {left // 60}:{left % 60:02} left"
    text = os.path.basename(part).removesuffix(".part")[: 79 - len(text)] + text
    tty = sys.stderr.isatty()
    print(f"\r{text:<79}" if tty else text, end="" if tty and not last else "\n", file=sys.stderr, flush=True)


def receive(url, part, size):
    """Append to the file `part` what it lacks, in one request; an OSError if it is not complete then."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    # Identity: else lengths and ranges would be those of compressed data. A header that is None is not sent.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={have}-" if have else None}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        first, total = extent(response, have)
        if first is None:  # the part is as long as the file, or longer, or the server misunderstands
            os.truncate(part, 0)  # not deleted: its lock is ours
            return receive(url, part, size)
        if None not in (size, total) and total != size:  # another file, or a login page: keep what we have
            raise requests.HTTPError(f"the server has {total} bytes, expected {size}")
        total, have, period = total or size, first, 0.1 if sys.stderr.isatty() else 10
        began = shown = time.monotonic()
        try:
            with open(part, "ab" if first else "wb") as f:
                for chunk in response.iter_content(CHUNK):
                    f.write(chunk)
                    have += len(chunk)
                    if time.monotonic() - shown > period:
                        shown = time.monotonic()
                        show_progress(part, first, have, total, began)
        finally:
            show_progress(part, first, have, total, began, last=True)
    if total and have < total:
        raise requests.ConnectionError(f"the connection broke off after {have} of {total} bytes")


def fetch(url, part, sha256, size):
    """Make `part` the complete, verified file; an OSError if that fails. What is complete but wrong is emptied."""
    resumed = os.path.exists(part) and os.path.getsize(part) > 0
    if resumed and (sha256, size) != (None, None) and not mismatch(part, sha256, size):
        return
    for retry in range(RETRIES + 1):
        try:
            receive(url, part, size)
            break
        except MAY_PASS as e:
            if retry == RETRIES:
                raise
            print(f"{e}; trying again in {BACKOFF * 2**retry:g} s", file=sys.stderr)
            time.sleep(BACKOFF * 2**retry)
    wrong = mismatch(part, sha256, size)
    if wrong:
        os.truncate(part, 0)
        if not resumed:
            raise OSError(wrong)
        fetch(url, part, sha256, size)  # its beginning was of another version: once more, from zero


def lock(path):
    """The file at path, open and locked until it is closed (the system closes a dead process's files); or None.

    Waits as long as another process has the lock. None where there are no locks: Windows, some network file systems.
    """
    while fcntl:
        file = open(path, "ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one says it for all
                print(f"waiting for another process, which writes {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            file.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # meanwhile it was renamed or deleted, and is not the file that others would lock
    return None


@contextmanager
def part_of(path):
    """The name of a part of the file to go on with, which nobody else touches until this ends."""
    part = own = path + ".part"
    file = lock(part)
    if not file:  # then under a name of our own, and what another one left there is ours as soon as it has that name
        own = f"{path}.{uuid.uuid4().hex[:8]}.part"
        with suppress(FileNotFoundError):
            os.replace(part, own)
    try:
        yield own
    finally:
        with suppress(FileNotFoundError):  # that is, unless it has become the file
            if os.path.getsize(own) == 0:
                os.remove(own)
            elif own != part:
                os.replace(own, part)
        if file:
            file.close()


def download(url, path=None, sha256=None, size=None, folder=None):
    """The path of a URL's complete file, which is fetched unless it is there; UserError in one line if that fails.

    sha256 (hex) and size (bytes) are verified if given, also of a file that is there; without sha256 nothing can tell
    that an old .part is of another version. Without path the file goes into folder, or else into the cache folder.
    """
    if path is None:
        folder = folder or os.environ.get("NANOCOCONUT_CACHE") or os.path.expanduser("~/.cache/nanococonut")
        name = re.sub(r"[^\w.-]", "_", re.split("[?#]", url)[0].rpartition("/")[2], flags=re.ASCII)[-100:]
        path = os.path.join(folder, f"{hashlib.sha256(url.encode()).hexdigest()[:10]}-{name}")
    path = os.fspath(path)
    try:
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with part_of(path) as part:
                if not os.path.exists(path):  # nobody has completed it while we waited
                    fetch(url, part, sha256, size)
                    os.replace(part, path)
        wrong = mismatch(path, sha256, size)
        if wrong:
            raise UserError(f"{path}: {wrong}; delete it, and it will be downloaded again from {url}")
        return path
    except OSError as e:  # requests' errors are OSErrors, and so is a full disk
        by_hand = f"try again later, or download it yourself and put it at {path}"
        raise UserError(f"cannot download {url} to {path}: {e}; {by_hand}") from None


GPT2 = {  # what is known of OpenAI's weights in Hugging Face's format: they are pinned where it is
    "gpt2": {
        "revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "size": 548_105_171,
        "sha256": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    }
}


def gpt2_weights(name):
    """The path of the model.safetensors of gpt2, gpt2-medium, gpt2-large or gpt2-xl."""
    known = dict(GPT2.get(name, {}))
    revision = known.pop("revision", "main")
    return download(f"https://huggingface.co/openai-community/{name}/resolve/{revision}/model.safetensors", **known)
