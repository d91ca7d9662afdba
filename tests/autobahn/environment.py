"""The Python 2.7 environment in which Autobahn's test suite runs: made once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from autobahn.failures import SuiteError

PINS = Path(__file__).with_name("requirements.txt")
VIRTUALENV = "virtualenv==20.21.1"
"""The last minor version that makes environments for Python 2.7, and brings a pip for it."""

INSTALL_SECONDS = 1800.0
_VERSION = "import sys; sys.stdout.write('%d.%d %s' % (sys.version_info[0], sys.version_info[1], sys.prefix))"


def suite_interpreter(given: str | None, say: Callable[[str], None]) -> Path:
    """The Python 2.7 interpreter that can import `autobahntestsuite`; installs it at first use.

    `given` is a path or None, which looks for `python2.7`. Raises `SuiteError`.
    """
    found, prefix = _python2(given)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "testorch-autobahn"
    stamp = hashlib.sha256(f"{prefix}\n{VIRTUALENV}\n{PINS.read_text()}".encode()).hexdigest()
    environment, mark = home / "environment", home / "installed"
    if not mark.is_file() or mark.read_text() != stamp:
        say(f"installing Autobahn's test suite into {home}; this takes a few minutes")
        shutil.rmtree(home, ignore_errors=True)
        _install(found, environment, tools=home / "tools")
        mark.write_text(stamp)
    return environment / "bin" / "python"


def _python2(given: str | None) -> tuple[str, str]:
    """(an interpreter that really is Python 2.7, its prefix)."""
    found = shutil.which(given or "python2.7")
    advice = "Autobahn's test suite needs Python 2.7; name one with `--python PATH`"
    if found is None:
        raise SuiteError(f"no `{given or 'python2.7'}` on PATH; {advice}")
    asked = subprocess.run([found, "-c", _VERSION], capture_output=True, text=True, check=False, timeout=60)
    version, _, prefix = asked.stdout.partition(" ")
    if asked.returncode or version != "2.7":
        answer = f"is Python {version}" if not asked.returncode else f"does not start (exit status {asked.returncode})"
        raise SuiteError(f"`{found}` {answer}; {advice}")
    return found, prefix


def _install(python2: str, environment: Path, *, tools: Path) -> None:
    _run(sys.executable, "-m", "venv", str(tools))
    _run(str(tools / "bin" / "python"), "-m", "pip", "install", "--quiet", VIRTUALENV)
    _run(str(tools / "bin" / "python"), "-m", "virtualenv", "--quiet", "--python", python2, str(environment))
    _run(
        str(environment / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--requirement",
        str(PINS),
    )
    shutil.rmtree(tools)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as failure:
        words = "\n".join((failure.stdout + failure.stderr).splitlines()[-20:])
        raise SuiteError(f"`{' '.join(command)}` failed:\n{words}") from None
    except subprocess.TimeoutExpired:
        raise SuiteError(f"`{' '.join(command)}` took longer than {INSTALL_SECONDS:.0f} s") from None
