"""The parts of ``make gpu``: each has ``findings(context)``, which gives what it finds one after the other."""
