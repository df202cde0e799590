"""The ablation of Safety Pretraining (arXiv 2504.16980): its rungs, the table beside the paper's numbers, the figure."""
