"""Safety scoring, 0-5: the rubric, fastText, the embedding classifier, the LLM judge and their ensemble."""
