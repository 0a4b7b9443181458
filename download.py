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
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import requests

from config import UserError

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


def show_progress(name, have, total, rate):
    """One line on stderr of at most 79 columns, written over the last one; all in bytes."""
    of = f"{have / total:4.0%}  {have / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{have / 1e6:.1f} MB"
    print(f"\r{name[:40]}  {of}  {rate / 1e6:.1f} MB/s  ", end="", file=sys.stderr, flush=True)


def answer_to(url, have):
    """(response, the first byte that it brings); an OSError if the server does not give the file from `have` on."""
    # Identity: else lengths and ranges would be those of compressed data. A header that is None is not sent.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={have}-" if have else None}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.ConnectionError as e:  # its own message has 300 characters
        raise OSError(f"no connection to {urlsplit(url).netloc} ({type(e).__name__})") from None
    status, range_ = response.status_code, response.headers.get("Content-Range", "")
    if have and (status == 416 or (status == 206 and not range_.startswith(f"bytes {have}-"))):
        return answer_to(url, 0)  # the part is as long as the file, or longer, or the server misunderstands
    if status not in (200, 206):
        kind = requests.ConnectionError if status == 429 or status >= 500 else requests.HTTPError
        raise kind(f"the server answers {status} {response.reason}")
    return response, have if status == 206 else 0


def receive(url, part, size):
    """Write to the file `part` what it lacks, in one request; an OSError if it is not complete then."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    response, have = answer_to(url, have)
    length = response.headers.get("Content-Length", "")  # a chunked response has none
    total = have + int(length) if length.isdecimal() else size
    if size not in (None, total):  # another file, or a login page: keep what we have
        raise requests.HTTPError(f"the server has {total} bytes, expected {size}")
    first, began, shown = have, time.monotonic(), 0.0
    name = os.path.basename(part).removesuffix(".part")
    with response, open(part, "r+b" if have else "wb") as f:
        f.seek(have)  # not appended: where there are no locks, others write the same bytes to the same places
        try:
            for chunk in response.iter_content(CHUNK):
                f.write(chunk)
                have += len(chunk)
                now = time.monotonic()
                if sys.stderr.isatty() and now - shown > 0.1:
                    show_progress(name, have, total, (have - first) / (now - began + 1e-6))
                    shown = now
        finally:
            show_progress(name, have, total, (have - first) / (time.monotonic() - began + 1e-6))
            print(file=sys.stderr)
    if total and have < total:
        raise requests.ConnectionError(f"the connection broke off after {have} of {total} bytes")


def fetch(url, part, sha256, size):
    """Make `part` the complete, verified file; an OSError if that fails. What is complete but wrong is removed."""
    resumed = os.path.exists(part)
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
        os.remove(part)
        if not resumed:
            raise OSError(wrong)
        fetch(url, part, sha256, size)  # its beginning was of another version: once more, from zero


@contextmanager
def one_at_a_time(folder):
    """While this lasts, no other process downloads into the folder; where there are no locks, nobody waits."""
    with open(os.path.join(folder, "lock"), "a") as file:  # the system closes a dead process's files
        with suppress(ImportError, OSError):  # Windows, some network file systems
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one says it for all
                    print(f"waiting for another process, which downloads into {folder}", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def download(url, path=None, sha256=None, size=None):
    """The path of a URL's complete file, which is fetched unless it is there; UserError in one line if that fails.

    sha256 (hex) and size (bytes) are verified if given, also of a file that is there; without sha256 nothing can tell
    that an old .part is of another version. Without path the file goes into the cache folder.
    """
    if path is None:
        folder = os.environ.get("NANOCOCONUT_CACHE") or os.path.expanduser("~/.cache/nanococonut")
        name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2], flags=re.ASCII)[-100:]
        path = os.path.join(folder, f"{hashlib.sha256(url.encode()).hexdigest()[:10]}-{name}")
    folder = os.path.dirname(path) or "."
    try:
        if not os.path.exists(path):
            os.makedirs(folder, exist_ok=True)
            with one_at_a_time(folder):
                if not os.path.exists(path):  # nobody has completed it while we waited
                    with suppress(FileNotFoundError):  # where there are no locks, another may have renamed it
                        fetch(url, f"{path}.part", sha256, size)
                        os.replace(f"{path}.part", path)
        wrong = mismatch(path, sha256, size)
        if wrong:
            raise UserError(f"{path}: {wrong}; delete it, and it will be downloaded again from {url}")
        return path
    except OSError as e:  # requests' errors are OSErrors, and so is a full disk
        by_hand = f"try again later, or download it yourself and put it at {path}"
        raise UserError(f"cannot download {url} to {path}: {e}; {by_hand}") from None


def find_or_download(folder, name, url, **known):
    """The path of a file in a folder that the user has named (--from=FOLDER), or else of a URL's file."""
    if folder:
        return os.path.join(folder, name)
    try:
        return download(url, **known)
    except UserError as e:
        raise UserError(f"{e}; or --from=FOLDER, if you have {name} somewhere") from None


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
