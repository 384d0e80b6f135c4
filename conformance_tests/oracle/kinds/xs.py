"""SPEC 11.9: a trained matrix between two that the file holds."""

from ..arithmetic import f32, normal

RULE = "11.9"
OPTIONS = {}
EXACT = False


def own(p, segments):
    return {"frozen": ("F32", sum(s["rank"] * (s["in"] + s["out"]) for s in segments), None)}


def dim(p, segments):
    return sum(s["rank"] ** 2 for s in segments)


def start(p, segments):
    return [f32(normal(int(p["seed"]), 0, j) * 1e-5) for j in range(dim(p, segments))]


def theta_D(p, segments, theta, number):
    frozen, result, at = [number(float(x)) for x in p["frozen"]], [], 0
    for s in segments:
        rank, out = s["rank"], s["out"]
        result += frozen[len(result) : len(result) + rank * s["in"]]
        G, R = frozen[len(result) : len(result) + out * rank], theta[at : at + rank * rank]
        at += rank * rank
        for o in range(out):
            for k in range(rank):
                entry = G[o * rank] * R[k]
                for j in range(1, rank):
                    entry = entry + G[o * rank + j] * R[j * rank + k]
                result.append(entry)
    return result
