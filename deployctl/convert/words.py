"""A vocabulary and its vectors as the front of a model: tokens in, ids or vectors out."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from deployctl.convert.part import Part, Tensors, wrapped
from deployctl.errors import ConversionError

# The rows of unknown words and of padding.
_EXTRA_ROWS = 2
# 16 GB as float32.
_MAX_ELEMENTS = 1 << 32


@dataclass(frozen=True)
class Vocabulary:
    """Words by id, and the matrix of their vectors.

    Attributes:
        file: one word a line; its line's number, from 0, is its id.
        count: of words.
        matrix: one row a word, None for a model that takes ids. The row of unknown words and, last, the one of
            padding, which is zeros, are added.
    """

    file: Path
    count: int
    matrix: NDArray[np.float32] | None

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
        vectors: text with "word 0.1 0.2 …" a line (a first line "COUNT SIZE" may be there), or a `.npy` matrix.
        work: a directory for what is made, on the file system of the export.
        unknown: the vector of words that are not there: "mean" of all, "zeros", or the word whose vector it is.

    Raises:
        ConversionError: a file is malformed, or the two do not fit.
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
    else:
        count, matrix = _parsed(vectors, listed)
    if len(matrix) != count + _EXTRA_ROWS:
        raise ConversionError(
            f"{vectors} has vectors for {len(matrix) - _EXTRA_ROWS} words, and {words} has {count}", kind="usage"
        )
    matrix[count] = _unknown_vector(matrix[:count], listed, unknown)
    matrix[count + 1] = 0
    return Vocabulary(listed, count, matrix)


def _loaded(vectors: Path) -> NDArray[np.float32]:
    """The matrix of the file with rows to spare; the file is mapped, so that it is not in memory twice."""
    try:
        stored = np.load(vectors, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{vectors} cannot be read as word vectors: {error}", kind="malformed") from error
    if stored.ndim != 2 or stored.dtype.kind not in "fiu":
        raise ConversionError(f"{vectors} is {stored.dtype} {stored.shape}, and no matrix of numbers", kind="usage")
    matrix = np.empty((len(stored) + _EXTRA_ROWS, stored.shape[1]), np.float32)
    matrix[: len(stored)] = stored
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
    matrix = _matrix_for(spec, vocabulary, given)

    def before(values: Tensors) -> dict[str, Any]:
        tokens = values[given]
        if length is not None:
            tokens = tokens[:, :length]
            tokens = tf.pad(tokens, [[0, 0], [0, length - tf.shape(tokens)[1]]], constant_values="")
            tokens = tf.ensure_shape(tokens, [None, length])
        ids = tf.where(tokens == "", tf.constant(vocabulary.padding, tf.int64), table.lookup(tokens))
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
    return tf.Variable(matrix, trainable=False, name="embedding")


def _copied(words: Path, listed: Path) -> int:
    try:
        lines = words.read_bytes().splitlines()
    except OSError as error:
        raise ConversionError(f"cannot read {words}: {error.strerror}", kind="usage") from error
    if len(set(lines)) != len(lines):
        raise ConversionError(f"{words} lists a word twice", kind="usage")
    listed.write_bytes(b"\n".join(lines) + b"\n")
    return len(lines)


def _parsed(vectors: Path, listed: Path) -> tuple[int, NDArray[np.float32]]:
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
            matrix = np.empty((rows + _EXTRA_ROWS, size), np.float32)
            words = _fill(matrix, lines, vectors, size)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{vectors} cannot be read as word vectors: {error}", kind="malformed") from error
    if len(set(words)) != len(words):
        raise ConversionError(f"{vectors} lists a word twice", kind="malformed")
    listed.write_bytes(b"\n".join(words) + b"\n")
    return len(words), matrix[: len(words) + _EXTRA_ROWS]


def _lines(mapped: mmap.mmap) -> Iterator[bytes]:
    start = 0
    while start < len(mapped):
        stop = mapped.find(b"\n", start)
        stop = len(mapped) if stop < 0 else stop
        line = mapped[start:stop]
        if line.strip():
            yield line
        start = stop + 1


def _count(mapped: mmap.mmap) -> int:
    """The most lines that there can be."""
    blocks = range(0, len(mapped), 1 << 24)
    return 1 + sum(mapped[start : start + (1 << 24)].count(b"\n") for start in blocks)


def _fill(matrix: NDArray[np.float32], lines: Iterator[bytes], vectors: Path, size: int) -> list[bytes]:
    words = []
    for row, line in enumerate(lines):
        word, _, numbers = line.partition(b" ")
        values = np.fromstring(numbers, np.float32, sep=" ")
        if len(values) != size or not word:
            raise ConversionError(
                f"{vectors} has {len(values)} numbers in line {row + 1}, and {size} in the first", kind="malformed"
            )
        matrix[row] = values
        words.append(word)
    return words


def _unknown_vector(matrix: NDArray[np.float32], listed: Path, unknown: str) -> Any:
    if unknown == "zeros":
        return 0.0
    if unknown == "mean":
        return matrix.mean(axis=0)
    words = listed.read_bytes().splitlines()
    if unknown.encode() not in words:
        raise ConversionError(
            f"--unknown {unknown!r} is neither mean, zeros nor a word of the vocabulary", kind="usage"
        )
    return matrix[words.index(unknown.encode())]
