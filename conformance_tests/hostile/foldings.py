"""Names of segments of sound files, where the compact form of a layer map is easily got wrong."""

FOLDINGS = {
    "two runs after each other": ["a.0.x", "a.1.x", "b.0", "b.1"],
    "a run that a gap ends": ["a.0.x", "a.1.x", "a.3.x", "a.4.x"],
    "a run of the first number where the second one repeats as well": ["a.0.0", "a.0.1", "a.1.0", "a.1.1"],
    "a run of the second number": ["a.0.0", "a.0.1", "a.0.2", "a.1.0"],
    "numbers that descend": ["a.2", "a.1", "a.0"],
    "a head that is the whole name": ["0", "1", "2"],
    "9 and 10": ["l.9.x", "l.10.x", "l.11.x"],
    "a number with a zero before it is text": ["l.01.x", "l.02.x"],
    "and begins no run": ["l.01.x", "l.2.x", "l.3.x"],
    "nine digits are a number": ["l.999999998", "l.999999999"],
    "a run may go on to ten digits": ["l.999999999", "l.1000000000"],
    "ten digits are text": ["l.1000000000", "l.1000000001"],
    "digits of other scripts are text": ["l.٠", "l.١"],
    "a head that another name begins with": ["l.1.x", "l.10.x", "l.2.x"],
    "blocks of two": ["l.0.a", "l.0.b", "l.1.a", "l.1.b", "l.2.a"],
    "blocks in another order": ["l.0.a", "l.0.b", "l.1.b", "l.1.a"],
    "a dot at the end": ["l.0.", "l.1."],
    "empty parts": ["..0..", "..1.."],
    "only eight numbers count": ["a.1.2.3.4.5.6.7.8.0", "a.1.2.3.4.5.6.7.8.1"],
    "the eighth number counts": ["a.1.2.3.4.5.6.7.0", "a.1.2.3.4.5.6.7.1"],
    "a number twice in the name": ["l.0.0.x", "l.1.0.x", "l.1.1.x"],
}
"""Names of segments in order, where a run of layers begins, ends, or is none (SPEC 7.9)."""
