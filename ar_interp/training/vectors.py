"""Machine code for one CPU thread, written in Python as sums and products of vectors of LANES numbers; needs llvmlite.

LLVM keeps such vectors in registers, where NumPy and PyTorch write each of them to memory. What it compiled is kept in
the user's cache, if that can be written.
"""

import ctypes
import hashlib
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, reduce
from itertools import combinations_with_replacement, product
from pathlib import Path
from threading import get_ident
from typing import Any

import llvmlite
import torch
from llvmlite import binding, ir
from torch import Tensor

from ar_interp.training.form import Parameters

LANES = 16
TILE = 4  # rows and columns of a product whose sums stay in registers
INTEGER = ir.IntType(64)


class Integer:
    """A count or an index, known when the code runs."""

    def __init__(self, build: Any, value: ir.Value) -> None:
        self.build, self.value = build, value

    def __add__(self, other: "Integer | int") -> "Integer":
        return Integer(self.build, self.build.add(self.value, _integer(other)))

    def __mul__(self, other: "Integer | int") -> "Integer":
        return Integer(self.build, self.build.mul(self.value, _integer(other)))

    def at_most(self, largest: int) -> "Integer":
        """The smaller of both."""
        below = self.build.icmp_signed("<", self.value, INTEGER(largest))
        return Integer(self.build, self.build.select(below, self.value, INTEGER(largest)))


Index = Integer | int


def _integer(index: Index) -> ir.Value:
    return index.value if isinstance(index, Integer) else INTEGER(index)


class Vector:
    """LANES numbers."""

    def __init__(self, code: "Code", value: ir.Value) -> None:
        self.code, self.value = code, value

    def _with(self, operation: str, other: "Vector | float") -> "Vector":
        other = other if isinstance(other, Vector) else self.code.number(other)
        return Vector(self.code, getattr(self.code.build, operation)(self.value, other.value, flags=("contract",)))

    def __add__(self, other: "Vector | float") -> "Vector":
        return self._with("fadd", other)

    def __sub__(self, other: "Vector | float") -> "Vector":
        return self._with("fsub", other)

    def __mul__(self, other: "Vector | float") -> "Vector":
        return self._with("fmul", other)

    def rsqrt(self) -> "Vector":
        """The reciprocal of the square root."""
        kind, module = self.code.vector, self.code.module
        name = f"llvm.sqrt.v{LANES}f{8 * self.code.size}"
        root = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind]), name)
        return self.code.number(1.0)._with("fdiv", Vector(self.code, self.code.build.call(root, [self.value])))


class Array:
    """Vectors in memory; or numbers, each of which is read as a vector of equal ones."""

    def __init__(self, code: "Code", pointer: ir.Value, kind: ir.Type) -> None:
        self.code, self.pointer, self.kind = code, pointer, kind

    def at(self, index: Index) -> "Array":
        """The array from an index on."""
        return Array(self.code, self._address(index), self.kind)

    def as_vectors(self) -> "Array":
        """The memory read as vectors."""
        return Array(self.code, self.pointer, self.code.vector)

    def _address(self, index: Index) -> ir.Value:
        return self.code.build.gep(self.pointer, [_integer(index)], source_etype=self.kind)

    def __getitem__(self, index: Index) -> Vector:
        build, kind = self.code.build, self.code.vector
        found = build.load(self._address(index), typ=self.kind, align=self.code.size)
        if self.kind is not kind:
            one = build.insert_element(ir.Constant(kind, ir.Undefined), found, ir.IntType(32)(0))
            found = build.shuffle_vector(one, one, _lanes([0] * LANES))
        return Vector(self.code, found)

    def __setitem__(self, index: Index, vector: Vector) -> None:
        self.code.build.store(vector.value, self._address(index), align=self.code.size)

    def list(self, n: int) -> list[Vector]:
        """The first n."""
        return [self[i] for i in range(n)]

    def fill(self, vectors: Iterable[Vector]) -> None:
        """Write them from the start on."""
        for i, vector in enumerate(vectors):
            self[i] = vector

    def add(self, vectors: Iterable[Vector]) -> Iterable[Vector]:
        """Add to what is there; the sums."""
        return [self.add_at(i, vector) for i, vector in enumerate(vectors)]

    def add_at(self, index: int, vector: Vector) -> Vector:
        self[index] = found = self[index] + vector
        return found


class Registers(Array):
    """Vectors that start at 0 each time they are made, in registers where there is room."""

    def __init__(self, code: "Code", n: int) -> None:
        self.code, self.kind = code, code.vector
        with code.build.goto_entry_block():
            self.pointers = [code.build.alloca(code.vector) for _ in range(n)]
        self.fill([code.number(0.0)] * n)

    def _address(self, index: Index) -> ir.Value:
        assert isinstance(index, int)
        return self.pointers[index]


class Code:
    """A function under construction.

    Attributes:
        arrays: its first arguments, vectors and then numbers.
        counts: its last arguments.
    """

    def __init__(self, dtype: torch.dtype, vectors: int, numbers: int, counts: int) -> None:
        self.size = dtype.itemsize
        real = ir.FloatType() if dtype == torch.float32 else ir.DoubleType()
        self.vector, self.module = ir.VectorType(real, LANES), ir.Module()
        arguments = [ir.PointerType()] * (vectors + numbers) + [INTEGER] * counts
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), arguments), "run")
        self.build: Any = ir.IRBuilder(function.append_basic_block())
        kinds = [self.vector] * vectors + [real] * numbers
        self.arrays = [Array(self, pointer, kind) for pointer, kind in zip(function.args, kinds, strict=False)]
        self.counts = [Integer(self.build, value) for value in function.args[vectors + numbers :]]

    def number(self, value: float) -> Vector:
        """A number in all lanes."""
        return Vector(self, ir.Constant(self.vector, [value] * LANES))

    @contextmanager
    def loop(self, stop: Index, down: bool = False) -> Iterator[Integer]:
        """Code written inside runs for each index below `stop`, from the last one down if wanted."""
        build, before = self.build, self.build.block
        head, body, after = (build.append_basic_block() for _ in range(3))
        build.branch(head)
        build.position_at_end(head)
        index = build.phi(INTEGER)
        index.add_incoming(INTEGER(0), before)
        build.cbranch(build.icmp_signed("<", index, _integer(stop)), body, after)
        build.position_at_end(body)
        following = build.add(index, INTEGER(1))
        yield Integer(build, build.sub(_integer(stop), following) if down else index)
        index.add_incoming(following, build.block)
        build.branch(head)
        build.position_at_end(after)

    @contextmanager
    def only_if_positive(self, index: Integer) -> Iterator[None]:
        """Code written inside runs only where the index is positive."""
        with self.build.if_then(self.build.icmp_signed(">", index.value, INTEGER(0))):
            yield

    def clear(self, array: Array, n: Index) -> None:
        """n zeros."""
        with self.loop(n) as i:
            array[i] = self.number(0.0)

    def add_outer(
        self, a: Array, n: int, a_row: int, b: Array, m: int, b_row: int, count: Index, to: Array, width: int
    ) -> None:
        """to[i, j] += sum of a[t, i] b[t, j] over t < count, i < n, j < m; each array with the length of its rows."""
        for top, left in product(range(0, n, TILE), range(0, m, TILE)):
            high, wide = min(TILE, n - top), min(TILE, m - left)
            sums = Registers(self, high * wide)
            with self.loop(count) as t:
                column, row = a.at(t * a_row + top).list(high), b.at(t * b_row + left).list(wide)
                sums.add(x * y for x, y in product(column, row))
            for i in range(high):
                to.at((top + i) * width + left).add(sums[i * wide + j] for j in range(wide))


def total(terms: Iterable[Vector]) -> Vector:
    """One after another."""
    return reduce(operator.add, terms)


def times(x: Sequence[Vector], matrix: Array, width: int, columns: int) -> list[Vector]:
    """x times the first columns of a matrix of rows of `width` numbers."""
    found = [x[0] * matrix[j] for j in range(columns)]
    for i in range(1, len(x)):
        found = [part + x[i] * matrix[i * width + j] for j, part in enumerate(found)]
    return found


def times_transposed(x: Sequence[Vector], matrix: Array, width: int, rows: int) -> list[Vector]:
    """x times the transpose of the first rows of a matrix of rows of `width` numbers."""
    found = [x[0] * matrix[i * width] for i in range(rows)]
    for j in range(1, len(x)):
        found = [part + x[j] * matrix[i * width + j] for i, part in enumerate(found)]
    return found


def pairs(n: int) -> list[tuple[int, int]]:
    """The places of a symmetric matrix, one of each two that are equal."""
    return list(combinations_with_replacement(range(n), 2))


def times_symmetric(x: Sequence[Vector], entries: Iterable[Vector]) -> list[Vector]:
    """x times the symmetric matrix that has these entries at `pairs`."""
    found = [x[0].code.number(0.0)] * len(x)
    for (a, b), entry in zip(pairs(len(x)), entries, strict=True):
        found[a] = found[a] + entry * x[b]
        if a != b:
            found[b] = found[b] + entry * x[a]
    return found


def sums_of_lanes(vectors: Sequence[Vector]) -> Vector:
    """The sum of each of LANES vectors."""
    build = vectors[0].code.build
    every_second = [_lanes(range(start, 2 * LANES, 2)) for start in (0, 1)]
    while len(vectors) > 1:
        both = zip(vectors[::2], vectors[1::2], strict=True)
        halves = [[build.shuffle_vector(a.value, b.value, which) for which in every_second] for a, b in both]
        vectors = [Vector(vectors[0].code, even) + Vector(vectors[0].code, odd) for even, odd in halves]
    return vectors[0]


def _lanes(indices: Iterable[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(indices))


@lru_cache(maxsize=32)
def compiled(
    write: Callable[..., None], vectors: int, numbers: int, counts: int, dtype: torch.dtype, *shape: Any
) -> Callable[..., None]:
    """The function of tensors and integers that `write(code, *shape)` writes."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    cpu, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    machine = binding.Target.from_default_triple().create_target_machine(cpu, features, opt=2)
    sources = [Path(str(sys.modules[name].__file__)).read_bytes() for name in (__name__, write.__module__)]
    key = hashlib.sha256(repr((sources, write.__name__, dtype, shape, cpu, features, llvmlite.__version__)).encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "ar_interp"
    path, machine_code = folder / f"{key.hexdigest()}.o", None
    with suppress(OSError):
        machine_code = path.read_bytes()
    if machine_code is None:
        code = Code(dtype, vectors, numbers, counts)
        write(code, *shape)
        code.build.ret_void()
        module = binding.parse_assembly(str(code.module))
        passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(2))
        passes.getModulePassManager().run(module, passes)
        machine_code = machine.emit_object(module)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.{get_ident()}")
            part.write_bytes(machine_code)
            part.replace(path)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(machine_code))
    engine.finalize_object()
    types = [ctypes.c_void_p] * (vectors + numbers) + [ctypes.c_int64] * counts
    call = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address("run"))

    def run(*arguments: Tensor | int, engine: Any = engine) -> None:  # which the code lives as long as
        assert all(tensor.is_contiguous() for tensor in arguments if isinstance(tensor, Tensor))
        call(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))

    return run


def errors_by(
    run: Callable[..., None],
    products: Parameters,
    tokens: Tensor,
    mask: Tensor,
    work: Sequence[int],
    *rest: Tensor | int,
    each: Sequence[Tensor] = (),
) -> tuple[Tensor, Parameters]:
    """The losses of each member, and their gradients with respect to its products, summed over sequences.

    Args:
        run: a function of tokens, mask, loss, gradients, work, weights, those of `each` and `rest`.
        tokens: [member pos dim group lane].
        mask: [group lane], the sequences that count.
        work: the number of vectors in each place for what the code keeps.
        each: further arguments, of each member.
    """
    weights = torch.cat([tensor.detach().flatten(1) for tensor in products.values()], dim=1)
    losses, gradients = weights.new_zeros(len(tokens), LANES), weights.new_zeros(*weights.shape, LANES)
    places = _places(tuple(work), tokens.dtype, get_ident())
    for sequences, loss, gradient, *own in zip(tokens, losses, gradients, weights, *each, strict=True):
        run(sequences, mask, loss, gradient, *places, *own, *rest)
    parts = gradients.sum(-1).split([tensor[0].numel() for tensor in products.values()], dim=1)
    found = {name: part.view_as(products[name]) for name, part in zip(products, parts, strict=True)}
    return losses.sum(-1), found


@lru_cache(maxsize=8)
def _places(work: tuple[int, ...], dtype: torch.dtype, thread: int) -> list[Tensor]:
    """Vectors without values; of a thread, which uses them again."""
    return [torch.empty(n * LANES, dtype=dtype, device="cpu") for n in work]
