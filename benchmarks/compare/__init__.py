"""Every kind of projection beside PEFT's and the head alone, at budgets of trained parameters: ``python -m benchmarks compare``.

method     what a method is: its arguments at a budget, and its learning rate
methods    all of them; peers: those of PEFT that have no kind here
runs       one training of a data set; where results are kept
costs      time and memory of a step
processes  what has to be done, and the processes that do it
search     the search for learning rates
numbers    what was measured of a data set, call by call
command    the options
told       which differences the spread allows to tell
page       docs/comparison.md, a pure function of the numbers; picture: its pictures
"""
