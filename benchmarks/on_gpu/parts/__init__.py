"""The parts of ``make gpu``: each has ``findings(given)``, which gives what it finds one after the other."""
