"""The processes of a controller: its own, and those that it starts."""

import psutil


def learners_of(controller: psutil.Process) -> list[psutil.Process]:
    """Those that learn for it."""
    return [child for child in controller.children() if "controller.learner_process" in child.cmdline()]
