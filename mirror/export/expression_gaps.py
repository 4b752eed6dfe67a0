"""What an export of expressions lacks, as a gap file from which generate_synthetic.py makes it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mirror.contracts.contract import demand_own, write_contract
from mirror.contracts.expression_export import ExpressionFolder, ExpressionsRecord
from mirror.contracts.gaps import GapReport, Recommendation
from mirror.dataset.sensors import SensorChoice
from mirror.export.dataset import ExportDataset
from utils.console import UserError
from utils.files import disk_errors_as, readable

GAP_TYPE = "expression"


def demand_gap_file(path: Path, output: Path) -> None:
    """Raise UserError where --gaps cannot be written."""
    if path.suffix.lower() != ".json" or path.is_dir():
        raise UserError(f"--gaps {path} is no .json file; it takes the name of a gap file, such as gaps.json.")
    if path.resolve().is_relative_to(output.resolve()):
        raise UserError(f"--gaps {path} lies in --output {output}, which holds the export alone. Choose another place.")
    demand_own(path, ExpressionsRecord.script_name)


def write_gaps(args: argparse.Namespace, dataset: ExportDataset, folders: list[ExpressionFolder]) -> int:
    """Write the gap file; how many pictures it asks for. Raises UserError."""
    gaps = [
        Recommendation(
            type=GAP_TYPE,
            target=folder.expression,
            count=folder.lacking,
            reason=f"{len(folder.pictures)} of {args.count} pictures for the export show it",
            wanted=folder.lacking,
        )
        for folder in folders
        if folder.lacking
    ]
    choice = SensorChoice(models_dir=args.models_dir, pack=args.pack)
    report = GapReport(
        script=ExpressionsRecord.script_name,
        dataset=readable(str(args.dataset.resolve())),
        recommendations=gaps,
        sensors=dataset.sensors,
        settings={
            **{name: value for name, value in choice.settings().items() if name in ("models_dir", "pack")},
            "expression_model": readable(str(dataset.expressions.path.resolve())),
            "recursive": args.recursive,
        },
    )
    with disk_errors_as(f"The gap file {args.gaps} cannot be written"):
        args.gaps.parent.mkdir(parents=True, exist_ok=True)
        write_contract(args.gaps, report)
    return sum(gap.count for gap in gaps)
