"""A Millstream server in a directory of its own, and the command line beside it: what a user would type."""

import json
import pathlib
import subprocess
import time


class Server:
    """`millstream serve` on a free port of this machine; ends with the `with` block.

    A command that fails raises `CalledProcessError`, after its errors have been printed.
    """

    def __init__(self, millstream, work):
        self.millstream = pathlib.Path(millstream).resolve()
        self.work = pathlib.Path(work).resolve()
        self.data = self.work / "server"

    def __enter__(self):
        log = (self.work / "server.log").open("wb")
        command = [self.millstream, "serve", "--data-dir", self.data, "--listen", "127.0.0.1:0", "--http", "off"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        # The line that says it is ready, or nothing if it ended before.
        ready = self.process.stdout.readline()
        if not ready:
            raise SystemExit(f"the server did not start: see {self.work / 'server.log'}")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()

    def run(self, *arguments, say=True):
        """Runs a command, prints what it says, and returns that."""
        command = [self.millstream, "--data-dir", self.data, *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if say or done.returncode:
            shown = " ".join(map(str, arguments))
            print(f"  $ millstream {shown}\n    " + done.stdout.strip().replace("\n", "\n    "), flush=True)
        done.check_returncode()
        return done.stdout

    def lake(self, name, stream, *flags):
        """Adds a lake on a stream, lands all of it, audits it; returns the lake's directory."""
        directory = self.work / "lakes" / name
        self.run("lake", "add", name, "--stream", stream, "--url", directory, *flags, say=False)
        began = time.monotonic()
        self.run("lake", "flush", name, "--timeout", "10m")
        print(f"    in {time.monotonic() - began:.1f} s")
        self.audit(name)
        return directory

    def audit(self, name):
        """Has the lake audited: it must be complete."""
        said = self.run("lake", "audit", name)
        assert said.startswith("complete:"), said

    def status(self, name):
        """What `lake status` says."""
        return json.loads(self.run("--json", "lake", "status", name, say=False))
