"""The figures of an estimate as tables for the terminal."""

from collections.abc import Sequence
from typing import Any

from tonsai_jax.reporting.tables import Table
from tonsai_jax.reporting.tables import as_text as as_table

GIB, GB = 2**30, 10**9


def as_text(figures: dict[str, Any]) -> str:
    """The tables, from the figures that `estimate` returns."""
    gpu, run = figures["gpu"], figures["run"]
    flops = figures["flops_per_token"]
    model = sum(flops[name] for name in ("gemm", "head", "attention"))
    beyond = f"{flops['recomputed'] / 1e9:.3f} G recomputed"
    if flops["spare_places"]:
        beyond += f", {flops['spare_places'] / 1e9:.3f} G in unused capacity slots of experts"
    head = [
        ("GPUs", f"{figures['num_gpus']} x {gpu['name']}, mesh {figures['mesh']}"),
        ("parameters", f"{figures['parameters'] / 1e6:,.1f} M, {figures['active_parameters'] / 1e6:,.1f} M active"),
        ("compute", f"{figures['dtype']}, attention {figures['attention']}"),
        ("FLOPs per token", f"{model / 1e9:.3f} G, plus {beyond}"),
    ]
    blocks = [_rows(head)]
    for number, stage in enumerate(figures["stages"], 1):
        title = f"stage {number}: " if len(figures["stages"]) > 1 else ""
        blocks += [f"{title}{stage['global_batch_size']} sequences of {stage['seq_len']} tokens per step"]
        blocks += [_memory(stage, figures["usable_bytes"]), _speed(stage), _collectives(stage)]
    total = [("tokens", f"{run['tokens'] / 1e9:,.2f} B in {run['steps']:,} steps"), ("hours", f"{run['hours']:,.1f}")]
    total += [("GPU-hours", f"{run['gpu_hours']:,.1f}")]
    total += [("cost", f"{run['cost']:,.0f}")] if "cost" in run else []
    total += [(f"epochs of {name}", f"{epochs:.2f}") for name, epochs in (figures["epochs"] or {}).items()]
    blocks += ["The run at that speed", _rows(total)]
    return "\n\n".join(block for block in blocks if block)


def _memory(stage: dict[str, Any], usable: int) -> str:
    rows = [(name, f"{size / GIB:8.2f} GiB") for name, size in stage["memory"].items()]
    verdict = "fits" if stage["fits"] else "does not fit"
    peak = sum(stage["memory"].values()) / GIB
    rows += [("sum", f"{peak:8.2f} GiB, of {usable / GIB:.2f} that JAX allocates: {verdict}")]
    if stage["compiled"]:
        rows += [("compiled program", f"{stage['compiled']['peak_bytes'] / GIB:8.2f} GiB")]
    rows += [("largest micro-batch", f"{stage['largest_micro_batch']:8d}")]
    rows += [("micro_batch_size", f"{stage['micro_batch_size']:8d} at most, for this global_batch_size")]
    return (
        f"Memory of a GPU: micro-batches of {stage['micro_batch']} sequences, {stage['accumulation']} per step\n"
        + _rows(rows)
    )


def _speed(stage: dict[str, Any]) -> str:
    rows = [(name, f"{1e3 * seconds:8.1f} ms") for name, seconds in stage["seconds"].items() if seconds]
    rows += [("step", f"{1e3 * sum(stage['seconds'].values()):8.1f} ms")]
    rows += [("speed", f"{stage['tokens_per_second']:,.0f} tokens/s, MFU {100 * stage['mfu']:.1f} %")]
    return "Upper bound of the speed: a roofline, not a measurement\n" + _rows(rows)


def _collectives(stage: dict[str, Any]) -> str:
    least, compiled = stage["least_bytes"], stage["compiled"]
    found = compiled["collectives"] if compiled else {}
    kinds = [kind for kind in least if least[kind] or kind in found]
    if not kinds:
        return ""
    heads = ["", "least GB", *(["compiled GB", "count", "overlapped"] if compiled else [])]
    rows = []
    for kind in kinds:
        row = [kind, f"{least[kind] / GB:.3f}"]
        if compiled:
            each = found.get(kind, {"num_bytes": 0, "count": 0, "overlapped_bytes": 0})
            share = each["overlapped_bytes"] / max(1, each["num_bytes"])
            row += [f"{each['num_bytes'] / GB:.3f}", str(each["count"]), f"{100 * share:.0f} %"]
        rows.append(row)
    line = f"scaling {100 * stage['scaling']:.1f} % for the least bytes, none overlapped"
    if compiled:
        line = f"scaling {100 * compiled['scaling']:.1f} % as compiled; {line}"
    return as_table(Table("Collectives of a step", "", heads, rows, 1)) + f"\n  {line}"


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
