"""Every kind of projection beside PEFT's and the head alone, at budgets of trained parameters: ``python -m benchmarks compare``.

methods    each method's arguments at a budget, and its learning rate
runs       one training; where results are kept
costs      time and memory of a step
command    the options, the processes, the search for learning rates
told       which differences the spread allows to tell
page       docs/comparison.md, a pure function of the numbers
"""
