"""Bad exports, made of real models by one change each, with the gate that must refuse them and what it must say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deployctl.domain.saved_model import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD
from deployctl.domain.warmup import WARMUP_PATH
from deployctl.protos.saved_model_pb2 import MetaGraphDef, NodeDef, SavedModel
from deployctl.protos.serving_pb2 import PredictRequest
from deployctl.protos.tensor_pb2 import DataType
from deployctl.savedmodel.warmup import write_warmup
from tests.support.models import TensorFlowModels
from tests.support.workspace import HALF_PLUS_TWO

Change = Callable[[Path], object]
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
TWO = "upstream half_plus_two"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@dataclass(frozen=True, slots=True)
class BadExport:
    """One way in which an export is bad.

    Attributes:
        base: the model that is changed.
        gate: the first gate that refuses it.
        words: that its reason contains.
        published: whether it is published first and changed afterwards.
    """

    name: str
    base: str
    gate: str
    words: str
    change: Change
    published: bool = False


def base_path(name: str, models: TensorFlowModels) -> Path:
    """Returns the good model that bad ones are made of."""
    return HALF_PLUS_TWO if name == TWO else models.path(name)


def bad_exports() -> tuple[BadExport, ...]:
    """Returns all of them."""
    return (*_partial(), *_unsafe(), *_damaged(), *_signatures(), *_incompatible(), *_ops(), *_warmup(), *_unloadable())


def _partial() -> Iterator[BadExport]:
    """What partial copies leave: tf-serving loads the first ones "successfully", with no weights."""
    for base in (TWO, "half_plus_1"):
        yield BadExport("no variables", base, "integrity", f"{INDEX} is absent", remove("variables"))
        yield BadExport("no index", base, "integrity", f"{INDEX} is absent", remove(INDEX))
        yield BadExport("no data", base, "integrity", f"{DATA} is absent, and variables.index", remove(DATA))
        yield BadExport("short data", base, "integrity", "bytes, and its index says", shorten(DATA, 3))
        yield BadExport("empty data", base, "integrity", "has 0 bytes, and its index says", write(DATA, b""))
        yield BadExport("short index", base, "integrity", "cannot be read as the index", shorten(INDEX, 9))
        yield BadExport("short graph", base, "integrity", "is not a whole SavedModel", halve("saved_model.pb"))
        yield BadExport("empty graph", base, "integrity", "holds no MetaGraph", write("saved_model.pb", b""))
        yield BadExport("no graph", base, "integrity", "holds neither saved_model.pb", remove("saved_model.pb"), True)
    yield BadExport("nothing", TWO, "integrity", "holds neither saved_model.pb", remove_all, True)
    yield BadExport("no asset", "vocabulary", "integrity", "is listed as an asset and absent", remove("assets"))
    page = b"<html><body>403 Forbidden</body></html>"
    yield BadExport("an error page", TWO, "integrity", "is not a whole SavedModel", write("saved_model.pb", page))
    yield BadExport(
        "an LFS pointer", TWO, "integrity", "is not a whole SavedModel", write("saved_model.pb", LFS_POINTER)
    )
    yield BadExport("an LFS index", TWO, "integrity", "cannot be read as the index", write(INDEX, LFS_POINTER))
    yield BadExport(
        "a graph that is a directory", TWO, "integrity", "is not a regular file", directory("saved_model.pb")
    )
    yield BadExport("bad text", TWO, "integrity", "is not a whole SavedModel", as_text(b"meta_graphs { meta"))
    yield BadExport("another's index", "half_plus_1", "integrity", "which the graph restores", copy_from(TWO, INDEX))


def _unsafe() -> Iterator[BadExport]:
    leaves = "is a symlink that leaves the export"
    yield BadExport("link to a file outside", TWO, "integrity", leaves, link("assets/passwd", "/etc/passwd"))
    yield BadExport("link to a directory outside", TWO, "integrity", leaves, link("assets/etc", "/etc"))
    yield BadExport("relative link outside", TWO, "integrity", leaves, link("assets/up", "../../.."))
    yield BadExport("link to nothing", TWO, "integrity", "is a symlink to nothing", link("assets/gone", "missing"))
    yield BadExport("link to itself", TWO, "integrity", "leads back to itself", link("assets/me", "me"))
    yield BadExport("directory in itself", TWO, "integrity", "that contains it", link("assets/all", ".."))
    yield BadExport("FIFO", TWO, "integrity", "is a FIFO", lambda path: os.mkfifo(path / "assets" / "fifo"))
    yield BadExport("line break in a name", TWO, "integrity", "cannot hold", write("assets/a\nb", b""))
    for name in ("../../secret", "/etc/passwd"):
        yield BadExport(f"asset {name}", "vocabulary", "integrity", "would be left by the asset", graph(asset(name)))


def _damaged() -> Iterator[BadExport]:
    """Published versions whose bytes changed afterwards."""
    for base in (TWO, "half_plus_1"):
        for place in (0, 5):
            yield BadExport(
                f"bit flip at {place} of the data", base, "integrity", "is changed", flip(DATA, place), True
            )
        yield BadExport("bit flip in the graph", base, "integrity", "saved_model.pb", flip("saved_model.pb", 200), True)
        yield BadExport("a file more", base, "integrity", "more is extra", write("more", b"x"), True)
        yield BadExport(
            "data of another size",
            base,
            "integrity",
            "its index says" if base != TWO else "is changed",
            write(DATA, bytes(64)),
            True,
        )
    asset_words = "foo.txt is listed as an asset and absent"
    yield BadExport("an asset less", TWO, "integrity", asset_words, remove("assets/foo.txt"), True)
    yield BadExport("another asset", TWO, "integrity", "is changed", write("assets/foo.txt", b"other"), True)


def _signatures() -> Iterator[BadExport]:
    for tags in ((), ("train",), ("gpu", "serve"), ("Serve",)):
        yield BadExport(f"tags {tags}", "half_plus_1", "signature", "is tagged exactly 'serve'", graph(tagged(*tags)))
    none = graph(lambda meta: meta.signature_def.clear())
    yield BadExport("no signature", "half_plus_1", "signature", "no signature can be called", none)
    yield BadExport("only the init op", "half_plus_1", "signature", "no signature can be called", graph(only_internal))
    yield BadExport("no output", "half_plus_1", "signature", "no signature can be called", graph(without_outputs))
    yield BadExport("no method", "half_plus_1", "signature", "has the method ''", graph(method("")))
    yield BadExport("own method", "half_plus_1", "signature", "has the method 'my/method'", graph(method("my/method")))
    classify = "is a Classify signature whose inputs are 'x', not 'inputs'"
    yield BadExport("Classify of x", "half_plus_1", "signature", classify, graph(method(CLASSIFY_METHOD)))
    regress = "is a Regress signature whose inputs are 'x', not 'inputs'"
    yield BadExport("Regress of x", "half_plus_1", "signature", regress, graph(method(REGRESS_METHOD)))
    for number, name in ((DataType.DT_BFLOAT16, "bfloat16"), (DataType.DT_COMPLEX64, "complex64")):
        words = f"is {name}, which the REST API cannot carry"
        yield BadExport(f"{name} by REST", "half_plus_1", "signature", words, graph(input_type(number)))


def _incompatible() -> Iterator[BadExport]:
    one = "half_plus_1"
    renamed = 'input "features" of serving_default absent became float32 (?): clients do not send it'
    yield BadExport("renamed input", one, "compatibility", renamed, graph(rename("inputs", "x", "features")))
    gone = 'output "y" of serving_default float32 (?) became absent'
    yield BadExport("renamed output", one, "compatibility", gone, graph(rename("outputs", "y", "z")))
    typed = 'input "x" of serving_default float32 (?) became int32 (?): clients send another type'
    yield BadExport("input type", one, "compatibility", typed, graph(input_type(DataType.DT_INT32)))
    read = 'output "y" of serving_default float32 (?) became float64 (?): clients read another type'
    yield BadExport("output type", one, "compatibility", read, graph(output_type(DataType.DT_DOUBLE)))
    for sizes, shown in (((8,), "(8)"), ((-1, 4), "(?,4)"), ((), "()")):
        words = f'input "x" of serving_default float32 (?) became float32 {shown}: shapes that clients send are refused'
        yield BadExport(f"input of shape {shown}", one, "compatibility", words, graph(input_shape(*sizes)))
    dimension = 'input "features" of serving_default float32 (?,4) became float32 (?,5)'
    yield BadExport(
        "fixed size", "keras_two_outputs", "compatibility", dimension, graph(input_shape(-1, 5, name="features"))
    )
    classes = 'output "class" of serving_default float32 (?,3) became absent'
    yield BadExport("output less", "keras_two_outputs", "compatibility", classes, graph(drop("outputs", "class")))
    removed = "signature norm tensorflow/serving/predict became absent"
    several = "several_signatures"
    yield BadExport("signature less", several, "compatibility", removed, graph(lambda meta: pop(meta, "norm")))
    default = "signature serving_default tensorflow/serving/predict became absent"
    yield BadExport(
        "no default signature", several, "compatibility", default, graph(lambda m: pop(m, "serving_default"))
    )
    required = 'input "k" of serving_default absent became float32 (?): clients do not send it'
    yield BadExport("new input", one, "compatibility", required, graph(more_input))
    method_words = "method of regress_x_to_y tensorflow/serving/regress became tensorflow/serving/predict"
    yield BadExport("method", TWO, "compatibility", method_words, graph(method(PREDICT_METHOD, "regress_x_to_y")))
    other = 'default of input "by" of shift'
    yield BadExport("default changed", several, "compatibility", other, graph(default_of("shift", "by", 9.0)))
    must = 'input "by" of shift optional became required'
    yield BadExport("default gone", several, "compatibility", must, graph(no_default("shift", "by")))


def _ops() -> Iterator[BadExport]:
    for op in ("ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc", "PyFuncStateless", "PrintV2"):
        words = f"op {op} in a function is not to be run"
        yield BadExport(f"{op} in a function", "half_plus_1", "ops", words, graph(plant_in_function(op)))
    for op in ("ReadFile", "Print", "ImmutableConst", "TFRecordDataset"):
        yield BadExport(f"{op} in the graph", TWO, "ops", f"op {op} in the graph is not to be run", graph(plant(op)))
    unknown = "op MyCompanyMul in a function is unknown to TensorFlow"
    yield BadExport("unknown op in a function", "without_variables", "ops", unknown, graph(rename_op("Mul")))
    yield BadExport("unknown op", TWO, "ops", "op MyCompanyOp in the graph is unknown", graph(plant("MyCompanyOp")))


def _warmup() -> Iterator[BadExport]:
    one = "half_plus_1"
    yield BadExport("1,001 records", one, "warmup", "more than 1000 records", warmup(*[request()] * 1001))
    yield BadExport("short record", one, "warmup", "record 2 is cut short", warmup(request(), request(), cut=3))
    yield BadExport("no TFRecord", one, "warmup", "does not begin as one of a TFRecord", write(WARMUP_PATH, b"{}" * 30))
    wrong = "record 2 calls the signature 'embed', which is not there"
    yield BadExport("signature", one, "warmup", wrong, warmup(request(), request(signature="embed")))
    yield BadExport("input", one, "warmup", 'gives no "x"', warmup(request(name="z")))
    yield BadExport("type", one, "warmup", 'gives "x" as int64', warmup(request(dtype=DataType.DT_INT64)))
    yield BadExport("rank", one, "warmup", 'gives "x" as float32 (3,3)', warmup(request(sizes=(3, 3))))


def _unloadable() -> Iterator[BadExport]:
    """What only a server finds, by loading it or by asking it."""
    yield BadExport("bit flip, unpublished", "half_plus_1", "load", "Checksum does not match", flip(DATA, 3))
    yield BadExport("edge from nowhere", TWO, "load", "nowhere", graph(edge_from_nowhere))
    yield BadExport("call of no function", "half_plus_1", "load", "no_such_function", graph(call_nothing))
    words = write("assets/vocabulary.txt", b"the\nquick\nthe\n")
    yield BadExport("a word twice", "vocabulary", "load", "HashTable has different value for same key", words)
    yield BadExport("weights that are no numbers", "without_variables", "golden", "holds nan", graph(constant("nan")))
    yield BadExport("infinite weights", "without_variables", "golden", "holds inf", graph(constant("inf")))
    yield BadExport("other weights", "without_variables", "golden", "is 6, not 4", graph(constant("3")))


def remove(name: str) -> Change:
    return lambda path: shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


def remove_all(path: Path) -> None:
    """Removes what was published, and leaves the manifest."""
    for entry in path.iterdir():
        if entry.name != "assets.extra":
            remove(entry.name)(path)


def write(name: str, data: bytes) -> Change:
    def change(path: Path) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).unlink(missing_ok=True)
        (path / name).write_bytes(data)

    return change


def shorten(name: str, by: int) -> Change:
    return lambda path: write(name, (path / name).read_bytes()[:-by])(path)


def halve(name: str) -> Change:
    return lambda path: write(name, (path / name).read_bytes()[: (path / name).stat().st_size // 2])(path)


def flip(name: str, place: int) -> Change:
    def change(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[place] ^= 1 << 3
        write(name, bytes(data))(path)

    return change


def directory(name: str) -> Change:
    def change(path: Path) -> None:
        (path / name).unlink()
        (path / name).mkdir()

    return change


def as_text(text: bytes) -> Change:
    def change(path: Path) -> None:
        (path / "saved_model.pb").unlink()
        (path / "saved_model.pbtxt").write_bytes(text)

    return change


def copy_from(base: str, name: str) -> Change:
    assert base == TWO
    return lambda path: write(name, (HALF_PLUS_TWO / name).read_bytes())(path)


def link(name: str, target: str) -> Change:
    return lambda path: os.symlink(target, path / name)


def graph(change: Callable[[MetaGraphDef], object]) -> Change:
    """Returns a change of the first MetaGraph; what our protocol buffers do not name stays as it was."""

    def rewrite(path: Path) -> None:
        file = path / "saved_model.pb"
        model = SavedModel.FromString(file.read_bytes())
        change(model.meta_graphs[0])
        write("saved_model.pb", model.SerializeToString())(path)

    return rewrite


def asset(name: str) -> Callable[[MetaGraphDef], object]:
    return lambda meta: meta.asset_file_def.add(filename=name)


def tagged(*tags: str) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        del meta.meta_info_def.tags[:]
        meta.meta_info_def.tags.extend(tags)

    return change


def only_internal(meta: MetaGraphDef) -> None:
    for key in [key for key in meta.signature_def if not key.startswith("__")]:
        del meta.signature_def[key]


def without_outputs(meta: MetaGraphDef) -> None:
    meta.signature_def["serving_default"].outputs.clear()


def method(name: str, signature: str = "serving_default") -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        meta.signature_def[signature].method_name = name

    return change


def input_type(dtype: DataType) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        meta.signature_def["serving_default"].inputs["x"].dtype = dtype

    return change


def output_type(dtype: DataType) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        meta.signature_def["serving_default"].outputs["y"].dtype = dtype

    return change


def input_shape(*sizes: int, name: str = "x") -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        shape = meta.signature_def["serving_default"].inputs[name].tensor_shape
        shape.Clear()
        for size in sizes:
            shape.dim.add(size=size)

    return change


def rename(side: str, old: str, new: str) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        tensors = getattr(meta.signature_def["serving_default"], side)
        tensors[new].CopyFrom(tensors[old])
        del tensors[old]

    return change


def drop(side: str, name: str) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        del getattr(meta.signature_def["serving_default"], side)[name]

    return change


def pop(meta: MetaGraphDef, signature: str) -> None:
    del meta.signature_def[signature]


def more_input(meta: MetaGraphDef) -> None:
    inputs = meta.signature_def["serving_default"].inputs
    inputs["k"].CopyFrom(inputs["x"])


def default_of(signature: str, name: str, value: float) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        tensor = meta.signature_def[signature].defaults[name]
        tensor.ClearField("tensor_content")
        del tensor.float_val[:]
        tensor.float_val.append(value)

    return change


def no_default(signature: str, name: str) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        del meta.signature_def[signature].defaults[name]

    return change


def plant(op: str) -> Callable[[MetaGraphDef], object]:
    return lambda meta: meta.graph_def.node.add(name="planted", op=op)


def plant_in_function(op: str) -> Callable[[MetaGraphDef], object]:
    return lambda meta: meta.graph_def.library.function[0].node_def.add(name="planted", op=op)


def rename_op(op: str) -> Callable[[MetaGraphDef], object]:
    def change(meta: MetaGraphDef) -> None:
        for node in function_nodes(meta):
            if node.op == op:
                node.op = f"MyCompany{op}"

    return change


def function_nodes(meta: MetaGraphDef) -> Iterator[NodeDef]:
    for function in meta.graph_def.library.function:
        yield from function.node_def


def constant(value: str) -> Callable[[MetaGraphDef], object]:
    """Replaces the factor 2 of `without_variables`."""

    def change(meta: MetaGraphDef) -> None:
        for node in (*function_nodes(meta), *meta.graph_def.node):
            tensor = node.attr["value"].tensor if node.op == "Const" else None
            if tensor is not None and tensor.dtype == DataType.DT_FLOAT:
                tensor.ClearField("tensor_content")
                del tensor.float_val[:]
                tensor.float_val.append(float(value))

    return change


def edge_from_nowhere(meta: MetaGraphDef) -> None:
    node = next(node for node in meta.graph_def.node if node.op in {"Mul", "Add"})
    node.input[0] = "nowhere"


def call_nothing(meta: MetaGraphDef) -> None:
    node = next(node for node in meta.graph_def.node if node.op == "StatefulPartitionedCall")
    node.attr["f"].func.name = "no_such_function"


def request(
    *, signature: str = "", name: str = "x", dtype: DataType = DataType.DT_FLOAT, sizes: tuple[int, ...] = (3,)
) -> PredictRequest:
    made = PredictRequest()
    made.model_spec.signature_name = signature
    made.inputs[name].dtype = dtype
    for size in sizes:
        made.inputs[name].tensor_shape.dim.add(size=size)
    return made


def warmup(*requests: PredictRequest, cut: int = 0) -> Change:
    def change(path: Path) -> None:
        file = path / WARMUP_PATH
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            write_warmup(stream, requests)
            stream.truncate(stream.tell() - cut)

    return change
