"""SPEC 11.10: A is trained, the file holds B."""

RULE = "11.10"
OPTIONS = {}
EXACT = True


def own(p, segments):
    return {"frozen": ("F32", sum(s["out"] * s["rank"] for s in segments), None)}


def dim(p, segments):
    return sum(s["rank"] * s["in"] for s in segments)


def start(p, segments):
    return [0.0] * dim(p, segments)


def theta_D(p, segments, theta, number):
    frozen, result, of_theta, of_frozen = [number(float(x)) for x in p["frozen"]], [], 0, 0
    for s in segments:
        result += theta[of_theta : of_theta + s["rank"] * s["in"]]
        of_theta += s["rank"] * s["in"]
        result += frozen[of_frozen : of_frozen + s["out"] * s["rank"]]
        of_frozen += s["out"] * s["rank"]
    return result
