"""SPEC 11, one file a kind, in plain Python and from the text. Each says, of ``segments`` one by one and its ``p``'s numbers:

``RULE``                          the rule of SPEC 11 that defines it
``OPTIONS``                       the kind's own numbers, each with the least and the most that tests draw
``fitting(p, segments)``          where the layer map has to suit these: another one that does
``own(p, segments)``              where it has tensors in the file beside θ: name → (dtype, length, end of an index)
``dim(p, segments)``              d, where it follows; ``dims``, a sequence of all that there can be, where it is free
``wrong(p, segments)``            where the rule refuses more than 11.1 does: projections that it refuses

``WHOLE``                         where true: segments may be of rank 0

and either ``index(p, segments)``, the columns of all rows, for a kind with one column a row, and ``start(p, segments, bound)``
where that is not 6.4, or

``EXACT``                         whether every entry has the same bits everywhere
``summed(p, segments)``           where that is not the largest rank: how many numbers are summed for an entry, where bits are not fixed
``start(p, segments)``            θ as training begins
``theta_D(p, segments, theta, number)``   all of θ_D, where ``number`` makes one of a float and + - * are its own

``p`` is the object `projection` of the protocol.
"""

import importlib
import pkgutil

LAYERED = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
"""Those kinds whose projection needs the layer map, by name."""
PROGRAMS = [kind for kind, module in LAYERED.items() if hasattr(module, "theta_D")]
