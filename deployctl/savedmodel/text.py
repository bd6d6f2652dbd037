"""Turns saved_model.pbtxt into the bytes of saved_model.pb."""

from __future__ import annotations

from google.protobuf import text_format

from deployctl.protos.saved_model_pb2 import SavedModel

# The text parser is written in Python and reads about a megabyte a second.
MAX_TEXT_BYTES = 64 << 20


class TextError(ValueError):
    """The text is not a SavedModel."""


def saved_model_bytes(text: bytes) -> bytes:
    """Returns the wire format of a SavedModel in text format; fields that nothing here reads are dropped.

    Raises:
        TextError: it is too large, not UTF-8, nested too deeply or not a SavedModel.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise TextError(f"it is more than {MAX_TEXT_BYTES} bytes of text")
    try:
        return text_format.Parse(text.decode(), SavedModel(), allow_unknown_field=True).SerializeToString()
    except RecursionError:
        raise TextError("it is nested too deeply") from None
    except (text_format.ParseError, ValueError) as error:
        raise TextError(str(error)) from error
