"""`python -m llmops_nb` is the same as `llmops`."""

from .commands import main

main(prog_name="llmops")
