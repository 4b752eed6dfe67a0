"""What a run of generate_synthetic.py is to make: the images of the gaps, or of a plan of the user's own."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass, field

from mirror.contracts.gaps import GapKey, GapReport, read_gaps
from mirror.dataset.gaps import EXPRESSION, measured_type
from mirror.generation.prompts import PlannedImage, PromptTables, plan_gaps, read_prompts
from utils.console import UserError


@dataclass
class GenerationPlan:
    """What to make, and where it comes from."""

    planned_images: list[PlannedImage]
    passed_over: list[str]  # sentences about gaps that get no image
    gaps: GapReport | None = None
    is_fixed: bool = False  # a plan of the user's own: neither --person nor --seed act
    unmeasured: list[str] = field(default_factory=list)  # gaps that get images, and that nothing can measure

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps([asdict(planned) for planned in self.planned_images]).encode()).hexdigest()[
            :12
        ]


def make_plan(args: argparse.Namespace, own: PromptTables | None = None) -> GenerationPlan:
    """The images to make; `own` are prompt texts by gap type and target. Needs no model. Raises UserError."""
    prompts = () if args.prompts_file is None else read_prompts(args.prompts_file)
    gaps = None if args.gaps is None else read_gaps(args.gaps)
    if isinstance(prompts, list):
        return GenerationPlan(prompts, [], gaps, is_fixed=True)
    if gaps is None:
        raise UserError("A gap file is needed, or a plan: --prompts-file plan.json. gap_analysis.py writes a gap file.")
    if not (args.person or "").strip():
        raise UserError('--person says who is to be seen, in the words that the LoRA was trained with: "ohwx person".')
    planned_images, passed_over = plan_gaps(
        gaps.recommendations, args.person, args.num_per_gap, args.seed, prompts, own or {}, args.candidates
    )
    keys = dict.fromkeys(GapKey(one.gap_type, one.target) for one in planned_images)
    unmeasured = [str(key) for key in keys if not _is_measured(key, gaps)]
    return GenerationPlan(planned_images, passed_over, gaps, unmeasured=unmeasured)


def _is_measured(key: GapKey, gaps: GapReport) -> bool:
    """Whether a sensor can say that an image shows it; an expression only where the gaps were found with a model."""
    gap = measured_type(*key)
    if gap is None or gap.needs != EXPRESSION:
        return gap is not None
    return gaps.sensors is not None and gaps.sensors.expression is not None
