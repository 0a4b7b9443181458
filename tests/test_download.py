"""
download() against a real server on this machine that is told how to misbehave.   python -m pytest test_download.py

Each test names the mistake that it would catch.
"""

import hashlib
import importlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from helpers import HERE

import download as dl
from config import UserError
from download import download

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
CUT = 2 * dl.CHUNK  # where connections break off: all chunks up to there arrive


class Handler(BaseHTTPRequestHandler):
    """Answers each GET with DATA as the next entry of server.script says, and as it should when the script is over."""

    protocol_version = "HTTP/1.1"  # 1.0 knows no chunks

    def do_GET(self):
        answer = self.server.script.pop(0) if self.server.script else {}
        self.server.ranges.append(self.headers["Range"])
        self.server.encodings.append(self.headers["Accept-Encoding"])
        self.answer(**answer)

    def answer(
        self,
        status=None,  # None: the right one
        ranges=True,  # False: the request's Range is ignored
        shift=0,  # error in the first byte of a range
        framing="length",  # how the end is told; or "chunked", or "close": by the end of the connection
        headers=(),  # further ones
        cut=None,  # bytes after which the connection breaks off
        pause=0,  # seconds after each 10,000 bytes
        before=lambda: None,  # these three are called before the answer, after CUT bytes of it, and after it
        between=lambda: None,
        after=lambda: None,
    ):
        before()
        start = int(self.headers["Range"][6:-1]) if ranges and self.headers["Range"] else 0
        status = status or (200 if not start else 206 if start < len(DATA) else 416)
        body = DATA[start + shift :] if status in (200, 206) else b"this is no part of the file"
        self.send_response(status)
        self.send_header("Connection", "close")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + shift}-{len(DATA) - 1}/{len(DATA)}")
        length, chunked = ("Content-Length", str(len(body))), ("Transfer-Encoding", "chunked")
        for name, value in (*{"length": [length], "chunked": [chunked], "close": []}[framing], *headers):
            self.send_header(name, value)
        self.end_headers()
        body, end = body[:cut], b"0\r\n\r\n" if cut is None else b""
        self.server.sent.append(len(body))
        body = b"%x\r\n%s\r\n%s" % (len(body), body, end) if framing == "chunked" else body
        self.wfile.write(body[:CUT] if not pause else b"")
        between()
        for start in range(0, len(body), 10_000) if pause else ():
            time.sleep(pause)
            self.wfile.write(body[start : start + 10_000])
        self.wfile.write(body[CUT:] if not pause else b"")
        after()

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for them

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.ranges, self.encodings, self.sent = [], [], [], []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/some/model.bin"

    def hang(self):
        self.released.wait(10)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may hang up
            super().handle_error(request, client_address)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(dl, "TIMEOUT", (5, 5))
    monkeypatch.setattr(dl, "BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "new" / "model.bin")


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def files_beside(path):
    return [name for name in os.listdir(os.path.dirname(path)) if name != "lock"]


def fails(server, path, *parts, **kwargs):
    """download() fails in one line that has the parts, says what to do, and leaves nothing under the final name."""
    with pytest.raises(UserError) as e:
        download(server.url, path, **kwargs)
    for part in (server.url, path, "put it at", *parts):
        assert part in str(e.value)
    assert "\n" not in str(e.value) and not os.path.exists(path)


# ---------------------------------------------------------------- what goes well


def test_whole_file(server, path):
    """Bytes lost or changed on the way; a .part left over; a folder that is not made."""
    assert download(server.url, path, sha256=SHA256.upper(), size=len(DATA)) == path
    assert read(path) == DATA and files_beside(path) == ["model.bin"]
    assert server.ranges == [None] and server.encodings == ["identity"]


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_unknown_length(server, path, framing):
    """A length that is relied on though the server does not tell it (and a path that has to be a str)."""
    server.script = [{"framing": framing}]
    assert read(download(server.url, Path(path))) == DATA


def test_empty_file(server, path, monkeypatch):
    """A length of 0 taken for an unknown one, or divided by."""
    monkeypatch.setattr(sys.modules[__name__], "DATA", b"")
    assert read(download(server.url, path, size=0)) == b""


def test_complete_file_needs_no_network(server, path):
    """A second download of what is there."""
    write(path, DATA)
    assert download(server.url, path, sha256=SHA256, size=len(DATA)) == path
    assert download(server.url, path) == path
    assert server.ranges == []


def test_cache(server, tmp_path, monkeypatch):
    """Two models' files of the same name in one place; a query in the name; a folder that is not respected."""
    monkeypatch.setenv("NANOCOCONUT_CACHE", str(tmp_path / "cache"))
    urls = [server.url, server.url.replace("some", "other"), server.url + "?download=true"]
    paths = [download(url) for url in urls]
    assert len(set(paths)) == 3 and paths == [download(url) for url in urls] and len(server.ranges) == 3
    assert all(p.startswith(str(tmp_path / "cache") + os.sep) and p.endswith("-model.bin") for p in paths)


# ---------------------------------------------------------------- going on where it broke off


@pytest.mark.parametrize("framing, size", [("length", None), ("chunked", None), ("close", len(DATA))])
def test_cut_and_resumed(server, path, framing, size):
    """Half a file taken for the whole; a resumption from the wrong byte, or of everything."""
    server.script = [{"cut": CUT, "framing": framing}]
    assert read(download(server.url, path, size=size)) == DATA
    assert server.ranges == [None, f"bytes={CUT}-"] and server.sent == [CUT, len(DATA) - CUT]


def goes_on(server, path):
    """There is a .part, but no file, and the next download begins where it ends."""
    have = os.path.getsize(path + ".part")
    assert 0 < have < len(DATA) and not os.path.exists(path)
    assert read(download(server.url, path)) == DATA and server.ranges == [None, f"bytes={have}-"]


def test_resumed_in_another_run(server, path, monkeypatch):
    """A .part that is deleted when the retries are used up."""
    monkeypatch.setattr(dl, "RETRIES", 0)
    server.script = [{"cut": CUT}]
    fails(server, path, str(CUT))
    goes_on(server, path)


def test_server_without_ranges(server, path):
    """The whole file appended to the .part."""
    write(path + ".part", DATA[:1000])
    server.script = [{"ranges": False}]
    assert read(download(server.url, path)) == DATA
    assert server.ranges == ["bytes=1000-"]


def test_wrong_range(server, path):
    """A 206 that is believed although it starts at another byte than we asked for."""
    write(path + ".part", DATA[:1000])
    server.script = [{"shift": 7}]
    assert read(download(server.url, path)) == DATA
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * len(DATA)])
def test_stale_part(server, path, stale):
    """A .part of another version that makes each further download fail."""
    write(path + ".part", stale)
    assert read(download(server.url, path, sha256=SHA256)) == DATA
    assert server.ranges == [f"bytes={len(stale)}-", None]


def test_part_too_long(server, path):
    """416 taken for an error, or a .part longer than the file for a complete one."""
    write(path + ".part", DATA + b"x")
    assert read(download(server.url, path)) == DATA
    assert server.ranges == [f"bytes={len(DATA) + 1}-", None]


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"size": len(DATA)}])
def test_part_complete(server, path, known):
    """A complete .part (killed just before the renaming) downloaded again."""
    write(path + ".part", DATA)
    assert read(download(server.url, path, **known)) == DATA
    assert server.ranges == [] and not os.path.exists(path + ".part")


def test_keyboard_interrupt(server, path):
    """^C that is swallowed, or loses what has come: a real signal, while the download waits for more."""

    def interrupt():
        while not (os.path.exists(path + ".part") and os.path.getsize(path + ".part")):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        server.hang()

    server.script = [{"cut": len(DATA) - 1, "after": interrupt}]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have us ignore it
    with pytest.raises(KeyboardInterrupt):
        download(server.url, path)
    signal.signal(signal.SIGINT, handler)
    goes_on(server, path)


def test_disk_full(server, path):
    """A traceback, or a .part that is deleted, when the disk is full: a real write that fails, in another process."""
    code = """if True:
        import resource, sys
        from config import cli
        from download import download
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        cli(lambda argv: download(*argv))"""
    command = [sys.executable, "-c", code, server.url, path]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"error: cannot download {server.url} to {path}: [Errno")
    goes_on(server, path)


# ---------------------------------------------------------------- several at a time

LOCKS = {
    "locks": "",
    "none": "sys.modules['fcntl'] = None",  # as on Windows
    "refused": """
import fcntl
def refuse(*args):
    raise OSError(38, "Function not implemented")
fcntl.flock = refuse""",  # as on Lustre without -o flock
}


def start(locks=""):
    """A process that downloads whatever URL and path it reads, line by line, and answers with the file's sha256."""
    code = f"""if True:
        import hashlib, sys
        import download
        exec({locks!r})
        download.RETRIES, download.CHUNK = 0, 10_000
        for line in sys.stdin:
            url, path, *known = line.split()
            download.download(url, path, *known[:1], *map(int, known[1:]))
            print(hashlib.sha256(open(path, "rb").read()).hexdigest(), flush=True)"""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-uc", code], cwd=HERE, text=True, **pipes)


def ask(process, *words):
    process.stdin.write(" ".join(map(str, words)) + "\n")
    process.stdin.flush()


@pytest.mark.parametrize("locks, known", [("locks", True), ("locks", False), ("none", False), ("refused", True)])
def test_two_processes_want_one_file(server, tmp_path, locks, known):
    """One that appends to the other's .part, so that the file is wrong, or that renames it away while it is written."""
    processes, trials = [start(LOCKS[locks]) for _ in range(2)], 6
    for trial in range(trials):
        server.script, path = [{"pause": 0.01}] * 2, tmp_path / f"{trial}" / "model.bin"
        for process in processes:
            ask(process, server.url, path, *[SHA256, len(DATA)][: 2 * known])
            time.sleep(trial * 0.04)  # the first one takes 0.3 s
        assert [process.stdout.readline().strip() for process in processes] == [SHA256] * 2
        assert files_beside(path) == ["model.bin"]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    if locks == "locks":
        assert server.ranges == [None] * trials and "waiting for another process" in "".join(errors)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_another_process_dies_while_one_waits(server, path, how):
    """A lock that outlives its process, and what had come already lost with it."""
    server.script = [{"pause": 0.01, "cut": len(DATA) - 1, "after": server.hang}]
    first, second = start("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"), start()
    ask(first, server.url, path)
    while not (os.path.exists(path + ".part") and os.path.getsize(path + ".part")):
        time.sleep(0.01)
    ask(second, server.url, path)
    assert "waiting for another process" in second.stderr.readline()
    first.send_signal(how)
    assert first.communicate()[0] == "" and first.returncode
    assert second.stdout.readline().strip() == SHA256
    second.communicate()
    assert second.returncode == 0 and files_beside(path) == ["model.bin"]
    assert server.ranges[0] is None and server.ranges[1].startswith("bytes=") and len(server.ranges) == 2


def test_the_one_waited_for_fails(server, path, monkeypatch):
    """A wait without end, or a failure that is taken over: each thread gets the file, or its own error."""
    monkeypatch.setattr(dl, "RETRIES", 0)
    server.script = [{"status": 404, "before": lambda: time.sleep(0.2)}]
    results = []

    def get():
        try:
            results.append(read(download(server.url, path)))
        except UserError as e:
            results.append(str(e))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(DATA) == 7 and [result for result in results if result != DATA][0].count("404") == 1
    assert server.ranges == [None, None] and files_beside(path) == ["model.bin"]


def test_nothing_is_left_of_a_failure_without_a_byte(server, path):
    """An empty .part for each file that a folder on the hub does not have."""
    server.script = [{"status": 404}]
    fails(server, path, "404")
    assert files_beside(path) == []


# ---------------------------------------------------------------- trying again, or not


@pytest.mark.parametrize("status", [503, 429])
def test_busy_server(server, path, status):
    """A server that is busy for a moment taken for a failure, or its answer for the file."""
    server.script = [{"status": status}, {"status": status}]
    assert read(download(server.url, path)) == DATA and len(server.ranges) == 3


def test_back_off(server, path, monkeypatch, capsys):
    """Retries without end, without a pause, or in silence."""
    monkeypatch.setattr(dl, "RETRIES", 3)
    server.script = [{"status": 500}] * 9
    start = time.monotonic()
    fails(server, path, "500")
    assert time.monotonic() - start >= 0.01 + 0.02 + 0.04 and len(server.ranges) == 4
    assert capsys.readouterr().err.count("trying again in 0.0") == 3


def test_not_found(server, path):
    """Retries of what cannot get better; an error page under the file's name."""
    server.script = [{"status": 404}]
    fails(server, path, "404")
    assert server.ranges == [None]


def test_hanging_server(server, path, monkeypatch):
    """A request without a timeout: before the answer's first byte, and in its middle."""
    monkeypatch.setattr(dl, "TIMEOUT", (0.5, 0.5))
    monkeypatch.setattr(dl, "RETRIES", 1)
    server.script = [{"before": server.hang}, {"cut": CUT, "after": server.hang}]
    fails(server, path, "timed out")
    assert server.ranges == [None, None] and os.path.getsize(path + ".part") == CUT


@pytest.mark.parametrize("script", ["prepare_gsm8k", "prepare_prosqa"])
def test_offline_is_one_line_at_once(script, tmp_path, monkeypatch, capsys):
    """Catches five lines of requests' own words within half a minute, and --from, which would help, not named."""

    def offline(*args, **kwargs):
        raise requests.ConnectionError(f"HTTPSConnectionPool(host='x', port=443): Max retries exceeded {'...' * 99}")

    monkeypatch.setenv("NANOCOCONUT_CACHE", str(tmp_path))
    monkeypatch.setattr(requests, "get", offline)
    with pytest.raises(UserError, match=r"no connection to [\w.]+ .*--from=FOLDER") as e:
        importlib.import_module(script).main([f"--out_dir={tmp_path}/out"])
    assert len(str(e.value)) < 700 and not capsys.readouterr().err
    with pytest.raises(UserError, match="no connection to huggingface.co "):
        dl.gpt2_weights("gpt2-medium")


def test_unreachable_server(server, path, monkeypatch):
    """A connection error that ends in a traceback."""
    monkeypatch.setattr(dl, "RETRIES", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # it does not listen
        monkeypatch.setattr(server, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/model.bin")
        fails(server, path, f"no connection to {server.url.split('/')[2]}")


# ---------------------------------------------------------------- what is not the file


def test_wrong_hash(server, path):
    """A wrong file under the final name, kept as .part for ever, or fetched again and again."""
    fails(server, path, SHA256, "0" * 64, sha256="0" * 64)
    assert server.ranges == [None] and not os.path.exists(path + ".part")


def test_wrong_size(server, path):
    """A login page, say, that overwrites what has come so far."""
    write(path + ".part", DATA[:1000])
    server.script = [{"ranges": False}]
    fails(server, path, str(len(DATA)), "999999", size=999_999)
    assert read(path + ".part") == DATA[:1000]


def test_chunked_of_wrong_size(server, path):
    """A size that is not verified because the server tells none."""
    server.script = [{"framing": "chunked"}]
    fails(server, path, "expected 200000", size=200_000)


@pytest.mark.parametrize("known", [{"size": len(DATA)}, {"sha256": SHA256}])
def test_existing_file_is_wrong(server, path, known):
    """A broken file that is used, deleted or replaced without asking."""
    write(path, b"mine")
    with pytest.raises(UserError, match="delete it") as e:
        download(server.url, path, **known)
    assert path in str(e.value) and str(*known.values()) in str(e.value)
    assert read(path) == b"mine" and server.ranges == []


# ---------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_progress(server, path, monkeypatch, framing):
    """A line that wraps, stands still, or is continued by the next output; thousands of lines in a log file."""
    path += "x" * 90
    for stderr in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stderr)
        server.script = [{"framing": framing, "between": lambda: time.sleep(0.4)}]
        os.remove(download(server.url, path))
        line, rest = stderr.getvalue().split("\n")
        shown = line.split("\r")
        assert rest == "" and all(len(text) <= 79 for text in shown) and "0.3 MB" in shown[-1]
        assert ("100%  0.3 of 0.3 MB" in shown[-1]) == (framing == "length")
        assert len(shown) >= 3 if stderr.isatty() else len(shown) == 2  # what stands before the first \r is empty
