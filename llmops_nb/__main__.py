"""`python -m llmops_nb` is the same as `llmops`."""

from .cli import main

main(prog_name="llmops")
