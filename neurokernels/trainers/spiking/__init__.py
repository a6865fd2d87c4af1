"""``neurokernels train spiking``: the handwritten-digit network of Gerum & Schilling, trained with the fused LIF op.

Images become Poisson spikes; a dense layer of 128 leaky integrate-and-fire neurons and a dense leaky read-out classify
them. Every value below is the one of the authors' MNIST script.

Source: Gerum & Schilling, "Integration of Leaky-Integrate-and-Fire Neurons in Deep Learning Architectures", Neural
Computation 33(10), 2021 (arXiv 2004.13532), and its published code.
"""
