"""From a file or a data set to rows: read, looked at, split into those to train on and those held out, and ordered."""
