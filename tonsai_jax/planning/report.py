"""The figures of an estimate as tables for the terminal."""

from typing import Any

from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.tables import Table, as_text, tables_as_text

GIB, GB = 2**30, 10**9


def estimate_as_text(figures: dict[str, Any]) -> str:
    """The tables, from the figures that `estimate` returns."""
    blocks = [as_text(_head(figures))]
    for number, stage in enumerate(figures["stages"], 1):
        title = f"stage {number}: " if len(figures["stages"]) > 1 else ""
        blocks += [f"{title}{count_of(stage['global_batch_size'], 'sequence')} of {stage['seq_len']} tokens per step"]
        blocks += [tables_as_text([_memory(stage, figures["usable_bytes"]), _speed(stage)]), _collectives(stage)]
    blocks += [as_text(_run(figures))]
    return "\n\n".join(block for block in blocks if block)


def _head(figures: dict[str, Any]) -> Table:
    flops = figures["flops_per_token"]
    model = sum(flops[name] for name in ("gemm", "head", "attention"))
    extra = f"{flops['recomputed'] / 1e9:.3f} G recomputed"
    if flops["unused_slots"]:
        extra += f", {flops['unused_slots'] / 1e9:.3f} G in unused capacity slots of experts"
    if flops["outside_window"]:
        extra += f", {flops['outside_window'] / 1e9:.3f} G outside the sliding window"
    trained = figures["trained_parameters"]
    lora = f", {trained / 1e6:,.2f} M trained (LoRA)" if trained else ""
    hosts = (
        f" in {figures['hosts']} hosts, {figures['network_gbit']:g} Gb/s for each GPU" if figures["hosts"] > 1 else ""
    )
    rows = [
        ["GPUs", f"{figures['num_gpus']} x {figures['gpu']['name']}{hosts}, mesh {figures['mesh']}"],
        [
            "parameters",
            f"{figures['parameters'] / 1e6:,.1f} M, {figures['active_parameters'] / 1e6:,.1f} M active{lora}",
        ],
        [
            "compute",
            f"{figures['dtype']}, attention {figures['attention']}, "
            f"{'scanned' if figures['scan_layers'] else 'unrolled'} layers, remat {figures['remat']}",
        ],
        ["FLOPs per token", f"{model / 1e9:.3f} G, plus {extra}"],
    ]
    return Table("", [], rows, "ll")


def _memory(stage: dict[str, Any], usable: int) -> Table:
    title = f"Memory of a GPU: micro-batches of {count_of(stage['micro_batch'], 'sequence')}, {stage['accumulation']} per step"
    verdict = "fits" if stage["fits"] else "does not fit"
    peak = sum(stage["memory"].values())
    rows = [[name, f"{size / GIB:.2f} GiB", ""] for name, size in stage["memory"].items()]
    rows += [["sum", f"{peak / GIB:.2f} GiB", f"of {usable / GIB:.2f} that JAX allocates: {verdict}"]]
    if stage["compiled"]:
        rows += [["compiled program", f"{stage['compiled']['peak_bytes'] / GIB:.2f} GiB", ""]]
    rows += [["largest micro-batch", f"{stage['largest_micro_batch']}", ""]]
    rows += [["micro_batch_size", f"{stage['micro_batch_size']}", "at most, for this global_batch_size"]]
    return Table(title, [], rows, "lrl")


def _speed(stage: dict[str, Any]) -> Table:
    rows = [[name, f"{1e3 * seconds:.1f} ms", ""] for name, seconds in stage["seconds"].items() if seconds]
    rows += [["step", f"{1e3 * sum(stage['seconds'].values()):.1f} ms", ""]]
    rows += [["speed", f"{stage['tokens_per_second']:,.0f} tokens/s", f"MFU {100 * stage['mfu']:.1f} %"]]
    return Table("Upper bound of the speed: a roofline, not a measurement", [], rows, "lrl")


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
    return as_text(Table("Collectives of a step", heads, rows, "l" + "r" * (len(heads) - 1))) + f"\n  {line}"


def _run(figures: dict[str, Any]) -> Table:
    run = figures["run"]
    rows = [
        ["tokens", f"{run['tokens'] / 1e9:,.2f} B in {count_of(run['steps'], 'step')}"],
        ["hours", f"{run['hours']:,.1f}"],
        ["GPU-hours", f"{run['gpu_hours']:,.1f}"],
    ]
    rows += [["cost", f"{run['cost']:,.2f}, in the currency of --price"]] if "cost" in run else []
    rows += [[f"epochs of {name}", f"{epochs:.2f}"] for name, epochs in (figures["epochs"] or {}).items()]
    return Table("The run at that speed", [], rows, "ll")
