"""A hint to fetch memory that will be read soon, for kernels that jump between short stretches of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _prefetch(typingctx: Any, address: Any) -> Any:
    """Begin to load the cache line at an address; has no effect on results, whatever the address."""
    del typingctx, address

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(3), number(1)])  # read, keep close, data
        return context.get_dummy_value()

    return types.void(types.int64), generate


# What kernels call: the typing context is numba's affair.
prefetch = cast(Callable[[Any], None], _prefetch)
