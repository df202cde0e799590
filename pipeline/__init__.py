"""Recipes, stages, shards, manifests, ledger, tagging, tokens and the report card of a safety pretraining corpus."""

import os

# loguru prints the values of local variables in tracebacks unless told otherwise: document text in a log.
os.environ.setdefault("LOGURU_DIAGNOSE", "NO")
