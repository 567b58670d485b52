"""`python -m app.cli` is `thalamus`."""

from app.cli import main

main()
