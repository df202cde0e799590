"""The one spelling of the harmfulness tag (Safety Pretraining, arXiv 2504.16980; the paper uses two)."""

HARMFULNESS_TAG = "<potentially_unsafe_content>"
