"""Activation checkpointing: a forward pass that runs again in the backward pass changes nothing."""

from torch.utils.checkpoint import checkpoint

from tests.contract.harness import close, evaluate, few, forced, run, same

THIN = True


def test_checkpoint(op, sample, backend):
    names = list(sample.tensors())

    def function(*values):
        return op.call(**dict(zip(names, values, strict=True)), **sample.options)

    expected = run(op, sample, backend)
    for reentrant in few(op, backend, (False, True)):

        def twice(reentrant=reentrant, **arguments):
            return checkpoint(function, *arguments.values(), use_reentrant=reentrant)

        with forced(op, backend, backward=1):
            got = evaluate(twice, sample.tensors())
        # A first pass without a gradient may find eigenvalues by an algorithm that has no vectors.
        (close if op.leans and reentrant else same)(got, expected)
