"""Run as a script: texts as a JSON list on standard input, profanity probabilities as a JSON list on standard output.

alt-profanity-check keeps its model as pickles, which may run code when they are loaded: this process imports nothing of
ours and has none of our environment.
"""

import json
import sys


def main() -> None:
    """Scores standard input."""
    from profanity_check import predict_prob

    print(json.dumps([float(probability) for probability in predict_prob(json.load(sys.stdin))]))


if __name__ == "__main__":
    main()
