"""``neurokernels train similarity``: networks that find images alike which a population of neurons finds alike.

Next to its task, a network is shown pairs of images that neurons saw, and pulled to represent them as similarly as the
neurons do. Controls run beside: the same similarities between the wrong images, those of the pixels, and nothing at
all.

Sources: Li et al., "Learning from brains how to regularize machines", NeurIPS 2019 (arXiv 1911.05072); for the
similarity of pixels Attias, Pehlevan & Obeid, "A Brain-Inspired Regularizer for Adversarial Robustness", 2024 (arXiv
2410.03952).
"""
