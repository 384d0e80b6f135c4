"""What there is to know of this project on a GPU, from one command: ``make gpu``, which is ``python -m benchmarks.on_gpu``.

running    a part in a process of its own, with a limit of time
part       that process: what a part finds is written line by line, so that nothing is lost where it ends early
findings   what a part says: a check, a figure, what was left out and why
kernels    the Triton kernels beside the reference, bit by bit; cases: what they are asked
figures    times on a GPU, in turns
page       the page, a pure function of what was found
parts/     what is looked at, a file each

No package is needed but NumPy and torch: a part that needs more says what is missing, and the others go on.
"""
