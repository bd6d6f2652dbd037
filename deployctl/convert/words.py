"""A vocabulary and its vectors as the front of a model: tokens in, ids or vectors out."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from deployctl.convert.part import Part, Tensors, wrapped
from deployctl.errors import ConversionError

# The rows of unknown words and of padding.
_EXTRA_ROWS = 2
_BLOCK_ROWS = 4096
# A multiple of every page size.
_BLOCK = 1 << 21
# 16 GB as float32.
_MAX_ELEMENTS = 1 << 32


@dataclass(frozen=True)
class Vocabulary:
    """Words by id, and the matrix of their vectors.

    Attributes:
        file: one word a line; its line's number, from 0, is its id.
        count: of words.
        matrix: a tf.Variable of one row a word, None for a model that takes ids. The row of unknown words and, last,
            the one of padding, which is zeros, are added.
    """

    file: Path
    count: int
    matrix: Any

    @property
    def unknown(self) -> int:
        """The id of every word that is not in the file."""
        return self.count

    @property
    def padding(self) -> int:
        """The id of places without a word."""
        return self.count + 1


def read_vocabulary(words: Path | None, vectors: Path | None, work: Path, *, unknown: str = "mean") -> Vocabulary:
    """Reads words and vectors into `work`.

    Args:
        words: one a line; None where `vectors` is text and names them.
        vectors: text with "word 0.1 0.2 …" a line, blanks or tabs between (a first line "COUNT SIZE" may be there), or
            a `.npy` matrix.
        work: a directory for what is made, on the file system of the export.
        unknown: the vector of words that are not there: "mean" of all, "zeros", or the word whose vector it is.

    Raises:
        ConversionError: a file is malformed, a number in it is not finite, or the two do not fit.
    """
    listed = work / "vocabulary.txt"
    if vectors is None:
        if words is None:
            raise ConversionError("a front end for tokens needs --vocabulary, --vectors or both", kind="usage")
        return Vocabulary(listed, _copied(words, listed), None)
    if vectors.suffix == ".npy":
        if words is None:
            raise ConversionError("vectors in .npy form need --vocabulary to name their words", kind="usage")
        count, matrix = _copied(words, listed), _loaded(vectors)
    elif words is not None:
        raise ConversionError(f"{vectors} names its words itself: leave out --vocabulary", kind="usage")
    else:
        matrix = _parsed(vectors, listed)
        count = matrix.count
    if matrix.count != count:
        raise ConversionError(f"{vectors} has vectors for {matrix.count} words, and {words} has {count}", kind="usage")
    matrix.append(_unknown_vector(matrix, listed, unknown))
    matrix.append(np.zeros_like(matrix.sum))
    matrix.flush()
    return Vocabulary(listed, count, matrix.variable)


class _Matrix:
    """A variable whose rows are filled in turn; it is most of the memory, and NumPy only ever has a block of it.

    Attributes:
        file: what the rows are read from.
        count: rows so far.
        sum: of these rows.
    """

    def __init__(self, file: Path, words: int, size: int) -> None:
        self.file = file
        self.variable = tf.Variable(tf.zeros([words + _EXTRA_ROWS, size]), trainable=False, name="embedding")
        self.count = 0
        self.sum = np.zeros(size)
        self._block = np.empty((_BLOCK_ROWS, size), np.float32)
        self._pending = 0

    def append(self, row: NDArray[Any]) -> None:
        """Adds a row."""
        self._block[self._pending] = row
        self._pending += 1
        self.count += 1
        if self._pending == len(self._block):
            self.flush()

    def flush(self) -> None:
        """Writes what is pending to the variable.

        Raises:
            ConversionError: a number of it is infinite, or none.
        """
        rows = self._block[: self._pending]
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            row = self.count - self._pending + int(finite.argmin()) + 1
            raise ConversionError(
                f"{self.file} has a number that is not finite in the vector of word {row}", kind="usage"
            )
        self.variable[self.count - self._pending : self.count].assign(rows)
        self.sum += rows.sum(axis=0, dtype=np.float64)
        self._pending = 0

    def row(self, index: int) -> NDArray[Any]:
        """Returns a row that was added."""
        self.flush()
        return np.asarray(self.variable[index])


def _loaded(vectors: Path) -> _Matrix:
    try:
        stored = np.load(vectors, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{vectors} cannot be read as word vectors: {error}", kind="malformed") from error
    if stored.ndim != 2 or stored.dtype.kind not in "fiu":
        raise ConversionError(f"{vectors} is {stored.dtype} {stored.shape}, and no matrix of numbers", kind="usage")
    matrix = _Matrix(vectors, *stored.shape)
    for row in stored:
        matrix.append(row)
    return matrix


def tokens_front(part: Part, given: str, vocabulary: Vocabulary, length: int | None) -> Part:
    """Returns `part` with the input `given` as string tokens, of any number in each row.

    Rows are cut, or filled at their end, to the length that the model takes. Empty tokens are padding too.

    Raises:
        ConversionError: the model's input is neither ids of words nor vectors of the matrix.
    """
    spec = part.inputs[given]
    length = length or (spec.shape[1] if spec.shape.rank is not None and spec.shape.rank > 1 else None)
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary.file),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    table = tf.lookup.StaticHashTable(initializer, vocabulary.unknown)
    matrix, padding = _matrix_for(spec, vocabulary, given), vocabulary.padding

    def before(values: Tensors) -> dict[str, Any]:
        tokens = values[given]
        if length is not None:
            tokens = tokens[:, :length]
            tokens = tf.pad(tokens, [[0, 0], [0, length - tf.shape(tokens)[1]]], constant_values="")
            tokens = tf.ensure_shape(tokens, [None, length])
        ids = tf.where(tokens == "", tf.constant(padding, tf.int64), table.lookup(tokens))
        fed = tf.cast(ids, spec.dtype) if matrix is None else tf.cast(tf.gather(matrix, ids), spec.dtype)
        return {**values, given: fed}

    inputs = {**part.inputs, given: tf.TensorSpec([None, None], tf.string, name=given)}
    return wrapped(part, inputs=inputs, before=before, resources=[table], variables=[] if matrix is None else [matrix])


def _matrix_for(spec: Any, vocabulary: Vocabulary, given: str) -> Any:
    if spec.dtype.is_integer:
        return None
    matrix = vocabulary.matrix
    width = spec.shape[-1] if spec.shape.rank else None
    if matrix is None or spec.shape.rank != 3 or width not in (None, matrix.shape[1]):
        held = "no vectors" if matrix is None else f"vectors of {matrix.shape[1]} numbers"
        raise ConversionError(
            f"the input {given!r} is {spec.dtype.name} {spec.shape}, and there are {held}", kind="usage"
        )
    return matrix


def _copied(words: Path, listed: Path) -> int:
    try:
        lines = words.read_bytes().splitlines()
    except OSError as error:
        raise ConversionError(f"cannot read {words}: {error.strerror}", kind="usage") from error
    if len(set(lines)) != len(lines):
        raise ConversionError(f"{words} lists a word twice", kind="usage")
    listed.write_bytes(b"\n".join(lines) + b"\n")
    return len(lines)


def _parsed(vectors: Path, listed: Path) -> _Matrix:
    """Fills the matrix line by line from the mapped file; no number ever becomes an object of Python."""
    try:
        with vectors.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            first = next(_lines(mapped), b"").split()
            lines, rows, size = _lines(mapped), _count(mapped), len(first) - 1
            if size == 1 and first[0].isdigit():  # the header of word2vec's text format
                next(lines)
                rows, size = rows - 1, int(first[1])
            if size < 1 or rows * size > _MAX_ELEMENTS:
                raise ConversionError(f"{vectors} does not have a word and its numbers in its lines", kind="malformed")
            matrix = _Matrix(vectors, rows, size)
            with listed.open("wb") as words:
                _fill(matrix, size, lines, words, vectors)
            return matrix
    except (OSError, ValueError) as error:
        raise ConversionError(f"{vectors} cannot be read as word vectors: {error}", kind="malformed") from error


def _lines(mapped: mmap.mmap) -> Iterator[bytes]:
    start = freed = 0
    while start < len(mapped):
        if start - freed > 2 * _BLOCK:
            # What is read once must not stay in this process's memory.
            mapped.madvise(mmap.MADV_DONTNEED, freed, _BLOCK)
            freed += _BLOCK
        stop = mapped.find(b"\n", start)
        stop = len(mapped) if stop < 0 else stop
        line = mapped[start:stop]
        if line.strip():
            yield line
        start = stop + 1


def _count(mapped: mmap.mmap) -> int:
    """How many lines there are, blank ones included."""
    count = 0 if mapped[-1:] == b"\n" else 1
    for start in range(0, len(mapped), _BLOCK):
        count += mapped[start : start + _BLOCK].count(b"\n")
        mapped.madvise(mmap.MADV_DONTNEED, start, min(_BLOCK, len(mapped) - start))
    return count


def _fill(matrix: _Matrix, size: int, lines: Iterator[bytes], words: BinaryIO, vectors: Path) -> None:
    """Writes the words to a file, and their numbers to the rows of `matrix`."""
    hashes = array("q")
    for line in lines:
        word, *numbers = line.split(maxsplit=1)
        values = np.fromstring(numbers[0] if numbers else b"", np.float32, sep=" ")
        if len(values) != size:
            where = f"line {matrix.count + 1}, and {size} in the first"
            raise ConversionError(f"{vectors} has {len(values)} numbers in {where}", kind="malformed")
        matrix.append(values)
        hashes.append(hash(word))
        words.write(word + b"\n")
    if len(np.unique(np.frombuffer(hashes, np.int64))) != matrix.count:
        raise ConversionError(f"{vectors} lists a word twice", kind="malformed")


def _unknown_vector(matrix: _Matrix, listed: Path, unknown: str) -> NDArray[Any]:
    if unknown == "zeros":
        return np.zeros_like(matrix.sum)
    if unknown == "mean":
        matrix.flush()
        return matrix.sum / max(matrix.count, 1)
    with listed.open("rb") as words:
        row = next((row for row, word in enumerate(words) if word.rstrip(b"\n") == unknown.encode()), None)
    if row is None:
        raise ConversionError(
            f"--unknown {unknown!r} is neither mean, zeros nor a word of the vocabulary", kind="usage"
        )
    return matrix.row(row)
