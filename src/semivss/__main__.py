"""`python -m semivss`: the command line."""

from semivss.cli import main

main()
