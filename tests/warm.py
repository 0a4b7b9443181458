"""Scripts run as a user would, without two seconds of `import torch` each: in forks of a process that has done it.

That process imports libraries only. What a fork runs is a script from its first line on, in a process, a folder and an
environment of its own; but what Python or torch read when they start (OMP_NUM_THREADS, PYTHONIOENCODING) is as it was.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

TESTS = os.path.dirname(os.path.abspath(__file__))
HERE = os.path.dirname(TESTS)
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch", "numpy", "requests", "tiktoken"])


def be(argv, cwd, environ, project, out, err):
    """In the fork: become `python argv`, where argv is a file and arguments, or "-m", a module and arguments."""
    os.setsid()  # a group of its own, which can be sent ^C as a terminal does
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    # as a new interpreter opens them; here they were opened on other files
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.path = [project, *(path for path in sys.path if path not in (TESTS, HERE))]
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


class Fork:
    """As subprocess.Popen([sys.executable, *argv], stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)."""

    def __init__(self, argv, cwd=".", project=HERE):
        pipes = [context.Pipe(duplex=False) for _ in ("stdout", "stderr")]
        args = argv, os.path.abspath(cwd), dict(os.environ), str(project), *(end for _, end in pipes)
        self.process = context.Process(target=be, args=args)
        self.process.start()
        for _, end in pipes:
            end.close()  # only the fork writes there
        self.pid = self.process.pid
        self.stdout, self.stderr = (open(os.dup(pipe.fileno())) for pipe, _ in pipes)

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.pid, timeout)
        return self.process.exitcode

    def communicate(self, timeout=None):
        with ThreadPoolExecutor() as pool:
            said = [pool.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return tuple(text.result() for text in said)

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """It, and what it has started: who holds a pipe would be waited for."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stdout.close()
        self.stderr.close()
        if error[0]:
            self.kill()
        self.process.join()


def run(argv, cwd=".", project=HERE, timeout=100):
    """As subprocess.run([sys.executable, *argv], cwd=cwd, capture_output=True, text=True, timeout=timeout)."""
    with Fork(argv, cwd, project) as p:
        said = p.communicate(timeout)
    return subprocess.CompletedProcess(argv, p.returncode, *said)
