"""Every kind of projection beside PEFT's and the head alone, at budgets of trained parameters: ``python -m benchmarks compare``.

method     what a method is: its arguments at a budget, and its learning rate
methods    all of them; peers: those of PEFT that have no kind here
runs       one training of a data set; where results are kept
costs      time and memory of a step
processes  which runs are missing, and the processes that do them
search     the search for learning rates
numbers    the measurements of a data set, call by call
command    the options
differences  which differences are larger than chance explains
page       docs/comparison.md, a pure function of the numbers; picture: its pictures
"""
