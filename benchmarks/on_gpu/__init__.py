"""Checks and measures this project on a GPU, by one command: ``make gpu``, which is ``python -m benchmarks.on_gpu``.

running    runs a part in a process of its own, with a limit of time
part       the program of that process: it writes each finding at once, so that nothing is lost where it ends early
findings   the findings of a part: a check, a figure, what was left out and why
kernels    compares the Triton kernels with the reference, bit by bit; cases: the inputs for that
figures    times on a GPU, in turns
page       the page, a pure function of what was found
parts/     the parts, a file each

No package is needed but NumPy and torch: a part that needs more says what is missing, and the others go on.
"""
