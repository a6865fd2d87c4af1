"""Triton's interpreter without what it looks up again at every operation; its numbers and its checks stay.

Most of its time went into finding built-in functions, replacing what is replaced already, names and shapes of types,
and asking by five more operations of its own whether integers overflow, which NumPy says at once.
"""

import inspect
from functools import cache
from typing import Any

import numpy as np
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

tl = interpreter.tl
OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def _replaced_once() -> None:
    """Functions of the language are replaced when a kernel starts, not again in each function that it calls."""

    @cache
    def builtins(package: Any) -> list[tuple[str, Any]]:
        return [(name, member) for name, member in inspect.getmembers(package) if core.is_builtin(member)]

    def patch(package: Any, *how: Any) -> None:
        for name, member in builtins(package):
            if getattr(package, name) is member:
                interpreter._patch_attr(package, name, member, *how)

    for package in (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base):
        builtins(package)
    interpreter._patch_builtin = patch
    plain, usual, seen = {lang: lang.range for lang in (tl, tl.core)}, interpreter._patch_lang, {}

    def patch_lang(function: Any) -> Any:
        if function not in seen:
            seen[function] = [lang for lang in plain if any(value is lang for value in function.__globals__.values())]
        if seen[function] and all(lang.range is not plain[lang] for lang in seen[function]):
            return interpreter._LangPatchScope()
        return usual(function)

    interpreter._patch_lang = patch_lang


def _types_once() -> None:
    """What a type, and the shape of a tensor, say of themselves is known after the first of them."""
    scalars = [value for value in vars(core).values() if type(value) is core.dtype]
    convert = interpreter._get_np_dtype
    numpy = {t.name: convert(t) for t in scalars if t.name != "void"}
    pointer = convert(core.pointer_type(core.float32))

    def numpy_dtype(t: Any) -> Any:
        scalar = t.scalar
        return pointer if isinstance(scalar, core.pointer_type) else numpy[scalar.name]

    interpreter._get_np_dtype = numpy_dtype
    block, blocks = core.block_type.__init__, {}

    def block_type(self: Any, element: Any, shape: Any) -> None:
        key = (element.name, *(getattr(n, "value", n) for n in getattr(shape, "value", shape)))
        known = blocks.get(key)
        if known is None:
            block(self, element, shape)
            blocks[key] = self.shape, self.numel, self.name
        else:
            self.element_ty = element
            self.shape, self.numel, self.name = known

    core.block_type.__init__ = block_type
    tensor = core.tensor.__init__
    shapes: dict[Any, tuple[Any, Any]] = {}

    def tensor_init(self: Any, handle: Any, type: Any) -> None:  # noqa: A002 (its name there)
        key = (*type.shape,) if type.is_block() else ()
        known = shapes.get(key)
        if known is None:
            tensor(self, handle, type)
            shapes[key] = self.shape, self.numel
        else:
            self.handle, self.type, self.dtype = handle, type, type.scalar
            self.shape, self.numel = known

    core.tensor.__init__ = tensor_init


def _overflow_by_numpy() -> None:
    def check(self: Any, left: Any, right: Any, operation: Any) -> None:
        scalar = left.type.scalar
        if scalar.int_bitwidth >= 64 or not self.builder.options.sanitize_overflow:
            return
        name = operation.__name__
        result = OPERATIONS[name](left.handle.data.astype(np.int64), right.handle.data.astype(np.int64))
        fits = (result >= scalar.get_int_min_value()) & (result <= scalar.get_int_max_value())
        assert fits.all(), f"int{scalar.int_bitwidth} overflow detected for operation {name}"

    TritonSemantic.binary_op_sanitize_overflow_impl = check


def hurry() -> None:
    """Makes the interpreter of this process quick."""
    _replaced_once()
    _types_once()
    _overflow_by_numpy()
