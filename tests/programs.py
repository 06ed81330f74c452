"""Running programs that the tests write or compile."""

import os
import platform
import shutil
import subprocess

# Fresh memory holds NaN of every dtype; the first finding ends the program.
SANITIZED = {
    "ASAN_OPTIONS": "halt_on_error=1:malloc_fill_byte=255:max_malloc_fill_size=1073741824",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def execute(command, **environment):
    """Runs a program; without address space randomisation if ThreadSanitizer cannot bear it."""

    def run(*prefix):
        return subprocess.run(
            [*prefix, *map(str, command)],
            capture_output=True,
            text=True,
            env=os.environ | SANITIZED | environment,
            timeout=600,
        )

    done = run()
    if "unexpected memory mapping" in done.stderr and shutil.which("setarch"):
        done = run("setarch", platform.machine(), "-R")
    return done
