"""The tables of gpu.py: Markdown, ready for docs/performance.md."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

LOSSES_AGREE_WITHIN = 1e-2  # nats
Row = dict[str, Any]


def markdown(about: Row, rows: Sequence[Row], not_measured: Sequence[Row], peak: float | None) -> str:
    """The whole report. `peak` is the dense bfloat16 FLOP/s of the GPU, None for an unknown GPU."""
    sections = [
        f"`{about['command']}`, {about['date']}: {_described(about)}.",
        _losses(rows),
        _steps(merged(_of(rows, "steps")), peak),
        _kernels(_of(rows, "kernels")),
        _table("profile, ours", ["ms a step"], ([row["what"], f"{row['ms']:.2f}"] for row in _of(rows, "profile"))),
        _table("not measured", ["why"], ([row["title"], row["why"]] for row in not_measured)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def loss_difference(rows: Sequence[Row]) -> float | None:
    """The largest difference between our losses and PyTorch's; None unless both were measured."""
    losses = {row["way"]: row["losses"] for row in _of(rows, "losses")}
    if losses.keys() != {"ours", "PyTorch"}:
        return None
    return max(abs(ours - theirs) for ours, theirs in zip(losses["ours"], losses["PyTorch"], strict=True))


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row per case, with the samples of all its processes; other values are those of the first process."""
    cases: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("model_name", "library", "variant", "micro_batch", "sequences"))
        case = cases.setdefault(key, row | {"seconds": []})
        case["seconds"] = case["seconds"] + row["seconds"]
    return list(cases.values())


def tokens_per_second(row: Row) -> float:
    """Tokens per second, by the median of the samples."""
    return row["sequences"] * row["seq_len"] / statistics.median(row["seconds"])


def in_short(row: Row) -> str:
    """A result in one line, to follow a run; "" for versions."""
    match row["part"]:
        case "steps":
            rate = row.get("sequences", row["micro_batch"]) * row["seq_len"] / statistics.median(row["seconds"])
            return f"{rate:,.0f} tokens/s"
        case "kernels":
            return f"{row['what']}, {row['way']}: {_speed(row)}"
        case "losses":
            return f"{row['losses'][0]:.3f} to {row['losses'][-1]:.3f}"
        case "profile":
            return f"{row['what']}: {row['ms']:.2f} ms"
        case "check":
            return f"{row['device']}, {row['memory']} of memory, {row['in_use']} in use by others"
    return ""


def _losses(rows: Sequence[Row]) -> str:
    difference = loss_difference(rows)
    if difference is None:
        return ""
    first, *_, last = next(row["losses"] for row in _of(rows, "losses") if row["way"] == "ours")
    verdict = "agree" if difference <= LOSSES_AGREE_WITHIN else "DO NOT AGREE"
    return (
        f"From the same weights on the same tokens our losses and PyTorch's {verdict}: at most {difference:.4f} nats apart "
        f"(limit {LOSSES_AGREE_WITHIN}) over 20 steps, in which ours went from {first:.3f} to {last:.3f}."
    )


def _steps(cases: Sequence[Row], peak: float | None) -> str:
    lines = []
    for row in cases:
        rate = tokens_per_second(row)
        seconds = row["seconds"]
        parts = row["sequences"] // row["micro_batch"]
        lines.append(
            [
                f"{row['model_name']}: {row['library']}, {row['variant']}",
                f"{row['micro_batch']} x {parts}" if parts > 1 else f"{row['micro_batch']}",
                row["attention"],
                f"{rate:,.0f}",
                f"{statistics.median(seconds) * 1e3:.1f} ({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f})",
                f"{100 * rate * row['flops_per_token'] / peak:.1f} %" if peak else "-",
                f"{row['peak_bytes'] / 2**30:.1f}" if row["peak_bytes"] else "-",
                f"{row['first_step_seconds']:.0f}",
                _ratio(rate, cases, row["model_name"], "PyTorch"),
                _ratio(rate, cases, row["model_name"], "Transformers"),
            ]
        )
    heads = ["sequences", "attention", "tokens/s", "ms/step, median (range)", "MFU", "peak GiB", "first step, s"]
    return _table("training step", [*heads, "of the best PyTorch", "of Transformers"], lines)


def _ratio(rate: float, cases: Sequence[Row], model: str, library: str) -> str:
    rates = [tokens_per_second(row) for row in cases if row["model_name"] == model and row["library"] == library]
    return f"{rate / max(rates):.2f}" if rates else "-"


def _kernels(rows: Sequence[Row]) -> str:
    ways = list(dict.fromkeys(row["way"] for row in rows))
    cells = {(row["what"], row["way"]): _speed(row) for row in rows}
    whats = dict.fromkeys(row["what"] for row in rows)
    return _table("single operation", ways, ([what, *(cells.get((what, way), "-") for way in ways)] for what in whats))


def _speed(row: Row) -> str:
    if "failed" in row:
        return f"failed: {row['failed'][:60]}"
    seconds = statistics.median(row["seconds"])
    speed = (
        f"{row['bytes'] / seconds / 1e12:.2f} TB/s"
        if "bytes" in row
        else f"{row['flops'] / seconds / 1e12:.0f} TFLOP/s"
    )
    return f"{seconds * 1e3:.3f} ms, {speed}"


def _described(about: Row) -> str:
    order = ("device", "python", "jax", "jaxlib", "flax", "optax", "torch", "torch_cudnn", "transformers")
    words = [f"{name} {about[name]}" for name in order if about.get(name)]
    words += [f"{name} {value}" for name, value in about.get("under_load", {}).items()]
    return ", ".join(words)


def _of(rows: Sequence[Row], part: str) -> list[Row]:
    return [row for row in rows if row["part"] == part]


def _table(first: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(line)} |" for line in lines]
    if not body:
        return ""
    return "\n".join([f"| {' | '.join([first, *heads])} |", "| --- " * (len(heads) + 1) + "|", *body])
