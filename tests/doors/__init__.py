"""Every door: where a command reads a file that a stranger may have written, a sound file for it, and small ones that ask for much.

A module for each kind of file, with the doors that read it. tests/attack.py goes through all of them and through mutations of theirs: a
door that is added to a module is attacked.
"""

from . import (
    adapters,
    base_folders,
    checkpoints,
    language_models,
    onnx_files,
    options,
    page,
    peft_folders,
    reports,
    rows,
    step_graphs,
    training_states,
)

DOORS = [
    *adapters.DOORS,
    *base_folders.DOORS,
    *checkpoints.DOORS,
    *language_models.DOORS,
    *options.DOORS,
    *rows.DOORS,
    *peft_folders.DOORS,
    *reports.DOORS,
    *onnx_files.DOORS,
    *step_graphs.DOORS,
    *training_states.DOORS,
    *page.DOORS,
]
