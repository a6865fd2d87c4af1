"""``neurokernels train dcca``: networks whose early layers are pulled towards recordings from visual cortex.

Next to its task, a network learns to represent images so that a population's responses to the same images can be
predicted from it. Controls run beside: responses in the wrong order, another loss, and nothing at all.

Source: Pirlot et al., "Improving the Accuracy and Robustness of CNNs Using a Deep CCA Neural Data Regularizer", 2022
(arXiv 2209.02582).
"""
