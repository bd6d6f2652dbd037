"""Draws signatures: inputs on the left, the signature in the middle, outputs on the right; as dot or as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from deployctl.domain.saved_model import Signature

_ROW, _GAP, _MARGIN = 34, 18, 16
# Width of a character of 12 px monospace, and the space inside a box.
_CHARACTER, _PADDING = 7.3, 12
_COLUMN_GAP = 60


def dot(title: str, signatures: Mapping[str, Signature]) -> str:
    """Returns the signatures as a graph for Graphviz."""
    lines = [f"digraph {_quoted(title)} {{", "  rankdir=LR;", '  node [shape=box, fontname="monospace"];']
    for index, (key, signature) in enumerate(signatures.items()):
        centre = f"s{index}"
        lines += [f"  subgraph cluster_{index} {{", f"    label={_quoted(key)};"]
        lines.append(f"    {centre} [label={_quoted(_label(key, signature))}, style=rounded];")
        for side, tensors in (("in", signature.inputs), ("out", signature.outputs)):
            for place, (name, spec) in enumerate(tensors.items()):
                node = f"{centre}_{side}{place}"
                lines.append(f"    {node} [label={_quoted(f'{name}: {spec}')}];")
                lines.append(f"    {node} -> {centre};" if side == "in" else f"    {centre} -> {node};")
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def svg(title: str, signatures: Mapping[str, Signature]) -> str:
    """Returns the signatures as a picture that stands alone."""
    columns = [
        _width([f"{name}: {spec}" for each in signatures.values() for name, spec in each.inputs.items()]),
        _width([_label(key, each) for key, each in signatures.items()]),
        _width([f"{name}: {spec}" for each in signatures.values() for name, spec in each.outputs.items()]),
    ]
    starts = [_MARGIN, _MARGIN + columns[0] + _COLUMN_GAP, _MARGIN + sum(columns[:2]) + 2 * _COLUMN_GAP]
    parts, top = [], float(_MARGIN)
    for key, signature in signatures.items():
        height = max(len(signature.inputs), len(signature.outputs), 1) * (_ROW + _GAP)
        parts += _drawing(_label(key, signature), signature, top, height, starts, columns)
        top += height + _GAP
    width = starts[2] + columns[2] + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{top:.0f}" '
            f'viewBox="0 0 {width:.0f} {top:.0f}" font-family="monospace" font-size="12">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width:.0f}" height="{top:.0f}" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _drawing(
    label: str, signature: Signature, top: float, height: float, starts: Sequence[float], widths: Sequence[float]
) -> list[str]:
    middle = top + height / 2
    parts = [_box(starts[1], middle - _ROW / 2, widths[1], label, rounded=True)]
    for column, tensors in ((0, signature.inputs), (2, signature.outputs)):
        step = height / max(len(tensors), 1)
        for place, (name, spec) in enumerate(tensors.items()):
            centre = top + step * (place + 0.5)
            parts.append(_box(starts[column], centre - _ROW / 2, widths[column], f"{name}: {spec}"))
            if column == 0:
                parts.append(_line(starts[0] + widths[0], centre, starts[1], middle))
            else:
                parts.append(_line(starts[1] + widths[1], middle, starts[2], centre))
    return parts


def _box(left: float, top: float, width: float, label: str, *, rounded: bool = False) -> str:
    radius = 10 if rounded else 0
    fill = "#e8eefc" if rounded else "#f6f6f6"
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_ROW}" rx="{radius}" fill="{fill}" '
        f'stroke="#555"/><text x="{left + width / 2:.1f}" y="{top + _ROW / 2 + 4:.1f}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#555"/>'


def _width(labels: Sequence[str]) -> float:
    return max((len(label) for label in labels), default=1) * _CHARACTER + 2 * _PADDING


def _label(key: str, signature: Signature) -> str:
    method = signature.method.rpartition("/")[2]
    return f"{key} ({method})" if method else key


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
