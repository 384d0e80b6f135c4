"""An adapter in a graph, wherever the graph comes from: the arithmetic, the uses of a weight, the modes."""
