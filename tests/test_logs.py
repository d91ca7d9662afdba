"""The log of a server process: one event a line, and never a reason to stand still."""

import os
import subprocess
import sys
import threading

import pytest

from testorch_core.logs import MAX_WAITING_LINES, PatientLog


def test_a_log_that_nobody_reads_makes_no_writer_wait_and_says_later_what_it_dropped():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        log = PatientLog(file)
        for number in range(MAX_WAITING_LINES + 5_000):
            log.write(f"line {number} {'x' * 100}\n")
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(os.fdopen(reading)), daemon=True)
        reader.start()
        while log._lines.qsize():
            pass
        log.write("the last\n")
        log._finish()
    reader.join(10)
    assert lines[0].startswith("line 0 ")
    assert lines[-1] == "the last\n"
    notes = [line for line in lines if "log_lines_dropped" in line]
    dropped = sum(int(note.split("=")[-1]) for note in notes)
    assert dropped > 0
    assert len(lines) - len(notes) - 1 + dropped == MAX_WAITING_LINES + 5_000


@pytest.mark.slow(reason="starts Python")
def test_what_was_logged_is_written_before_the_process_ends():
    words = "from testorch_core.logs import server_log; log = server_log('info'); log.info('hello', text='a b\\nc')"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=20, check=True)
    [line] = done.stderr.splitlines()
    assert "event=hello" in line
    assert r'text="a b\nc"' in line
