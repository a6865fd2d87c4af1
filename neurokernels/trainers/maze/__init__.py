"""``neurokernels train maze``: small networks evolve in mazes, with and without severed connections.

A sweep over the probability of severance, with controls, each network tested in mazes that evolution never saw: of the
size it evolved in, and larger.

Source: Gerum et al., "Sparsity through evolutionary pruning prevents neuronal networks from overfitting", Neural
Networks 128, 2020 (arXiv 1911.10988). Its grid, sensors, population and probabilities are not known to us: ours is
Gerum-style.
"""
