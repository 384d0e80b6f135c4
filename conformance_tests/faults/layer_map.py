"""Faults in the layer map (SPEC 7)."""

from . import of

FAULTS = [
    *of(
        "layer_map.py",
        ("a layer by its last number", "11.13", "next(numbers, len(parts))", "max(numbers, default=len(parts))"),
        ("A and B exchanged", "7.2", "A = theta_D[:split].reshape(self.rank, self.in_features)\n        return A, theta_D[split:].reshape(self.out_features, self.rank)",
         "split = self.rank * self.out_features\n        B = theta_D[:split].reshape(self.out_features, self.rank)\n        return theta_D[split:].reshape(self.rank, self.in_features), B"),
        ("A column by column", "7.2", "theta_D[:split].reshape(self.rank, self.in_features)", "theta_D[:split].reshape(self.in_features, self.rank).T"),
        ("the length of a name in characters", "7.2", 'len(self.name.encode("utf-8", "surrogatepass")) <= MAX_NAME', "len(self.name) <= MAX_NAME"),
        ("transposed weights as others", "7.3", "(delta.T if self.transposed else delta)", "(delta)"),
        ("rows from the first on", "7.5", "rows = slice(self.row, self.row + self.out_features)", "rows = slice(0, self.out_features)"),
        ("the first matrix of a stack", "7.5", "weight = weight[self.index]", "weight = weight[0]"),
        ("no segment without A and B", "7.2", '("rank", 0), ("row", 0)', '("rank", 1), ("row", 0)'),
        ("rank 0 of the size of rank 1", "7.2", "return self.out_features * self.in_features", "return self.out_features + self.in_features"),
        ("ΔW column by column", "7.2", "theta_D.reshape(self.out_features, self.in_features)", "theta_D.reshape(self.in_features, self.out_features).T"),
        ("rslora as lora", "7.7", "alpha / math.sqrt(rank or 1)", "alpha / (rank or 1)"),
        ("rank 0 without its alpha", "7.7", '"lora": lambda alpha, rank: alpha / (rank or 1)', '"lora": lambda alpha, rank: alpha / rank if rank else 1.0'),
        ("an alpha of any size", "7.7", "if not ALPHA_RANGE[0] <= self.alpha <= ALPHA_RANGE[1]:", "if False:"),
        ("leading zeros in layer numbers", "7.9", '"0|[1-9][0-9]{0,8}"', '"[0-9]{1,9}"'),
        ("layer numbers of ten digits", "7.9", '"0|[1-9][0-9]{0,8}"', '"0|[1-9][0-9]{0,9}"'),
        ("a ninth number counts", "7.9", "MAX_NUMBERS = 8", "MAX_NUMBERS = 9"),
        ("more segments than the limit", "7.1", "MAX_SEGMENTS = 65_536", "MAX_SEGMENTS = 65_537"),
        ("longer names than the limit", "7.1", "MAX_NAMES = 2**22", "MAX_NAMES = 2**24"),
        ("a range of one", "7.8", "if bounds[1] - bounds[0] < 2:", "if bounds[1] - bounds[0] < 1:"),
    ),
]  # fmt: skip
