"""`python -m testorch_core.cli`, where the script `testorch` is not on the path."""

from testorch_core.cli import main

main()
