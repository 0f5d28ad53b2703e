"""`python -m lpcaffe` is the command line."""

from lpcaffe.cli import main

main()
