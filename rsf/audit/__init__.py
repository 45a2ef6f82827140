"""What did rejection do to a data set? A table of samples goes in; a page and a figure come out.

The logs of other tools, as their public code writes them. What was kept comes from a column or from `--rule`.

TRL 1.0 to 1.16, trainer/grpo_trainer.py, `log_completions=True`: read as it is, a file or the folder. The
reward is the sum of all columns of floats; with weights, or floats of `log_extra`, name it instead:
--columns reward=accuracy_reward+format_reward.

    python -m rsf audit out/completions --rule "above(1)"

ms-swift 4.5.2, rlhf_trainers/grpo_trainer.py, `--log_completions true`: a line holds the columns of a step.
(`swift sample`, pipelines/sampling/vanilla_sampler.py, writes only what it kept, reference answers, which
are candidates there, among it: nothing to audit.)

    python -m rsf audit out/completions.jsonl --columns reward=MathAccuracy+Format round=step
        --rule "above(2)"

open-instruct 0.3.0, rejection_sampling/rejection_sampling.py, `--save_filename_scores`: the reference is a
candidate beside the n samples, so the best of n + 1 is kept; a score has the name of its reward model.

    python -m rsf audit completion_scores.jsonl --rule "best_of(4)" --columns prompt=messages.:-1
        completion=model_completion reference=reference_completion reward=score.org/rm-1.5

OpenRLHF 0.9.5 (the last with it), cli/batch_inference.py, `--eval_task rm` without `--post_processor`: with
`rs` (utils/processor.py) only the best are written.

    python -m rsf audit rm.jsonl --columns prompt=input completion=output --rule "best_of(4)"

verl 0.9.0, trainer/ppo/ray_trainer.py, `trainer.rollout_data_dir`: a file a step, here the folder; what the
reward function returned beside the score is there under its names, such as reward=acc.

    python -m rsf audit rollouts --columns prompt=input completion=output reward=score round=step
        --rule "above(1)"
"""

from rsf.audit.columns import read
from rsf.audit.measure import audit
from rsf.audit.report import AuditReport, Clipping

__all__ = ["AuditReport", "Clipping", "audit", "read"]
