"""What a run of generate_synthetic.py is to make: the images of the gaps, or of a plan of the user's own."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass

from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import GapReport
from mirror.generation.prompts import PlannedImage, plan_gaps, read_prompts
from utils.console import UserError


@dataclass
class GenerationPlan:
    """What to make, and where it comes from."""

    planned_images: list[PlannedImage]
    passed_over: list[str]  # sentences about gaps that get no image
    gaps: GapReport | None = None
    is_fixed: bool = False  # a plan of the user's own: neither --person nor --seed act

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps([asdict(planned) for planned in self.planned_images]).encode()).hexdigest()[
            :12
        ]


def make_plan(args: argparse.Namespace) -> GenerationPlan:
    """The images to make. Needs no model. Raises UserError."""
    prompts = () if args.prompts_file is None else read_prompts(args.prompts_file)
    gaps = None if args.gaps is None else read_contract(args.gaps, GapReport, "gap_analysis.py")
    if isinstance(prompts, list):
        return GenerationPlan(prompts, [], gaps, is_fixed=True)
    if gaps is None:
        raise UserError("A gap file is needed, or a plan: --prompts-file plan.json. gap_analysis.py writes a gap file.")
    if not (args.person or "").strip():
        raise UserError('--person says who is to be seen, in the words that the LoRA was trained with: "ohwx person".')
    planned_images, passed_over = plan_gaps(gaps.recommendations, args.person, args.num_per_gap, args.seed, prompts)
    return GenerationPlan(planned_images, passed_over, gaps)
