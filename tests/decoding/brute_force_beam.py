"""Safe Beam Search written plainly from the paper's algorithm: one prompt, one text at a time, no cache, no batch."""

import math

import torch


def next_log_probs(model, ids, known):
    if tuple(ids) in known:
        return known[tuple(ids)]
    logits = model(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        position_ids=torch.arange(len(ids))[None],
    ).logits[0, -1]  # fmt: skip
    known[tuple(ids)] = logits.float().log_softmax(-1)
    return known[tuple(ids)]


def search(model, prompt, tag, end, k, n, most, fraction=0.5, refill=False, risk_of=None, minimum=0):
    """[(generated ids, log p, risks)], best first. A text's log p is summed in float32, as models give it."""
    risk_of = risk_of or (lambda log_probs: float(log_probs[tag].exp()))
    live, done, known = [([], 0.0, [])], [], {}
    for step in range(most):
        pool = []
        for text, log_p, risks in live:
            log_probs = next_log_probs(model, prompt + text, known)
            allowed = [t for t in range(len(log_probs)) if t != tag and not (t == end and step < minimum)]
            values = log_probs.tolist()
            allowed.sort(key=lambda t: (-values[t], t))
            for token in allowed[:n]:
                seen = prompt + text + ([] if token == end else [token])
                total = float(log_probs[token] + torch.tensor(log_p))
                pool.append(([*text, token], total, [*risks, risk_of(next_log_probs(model, seen, known))]))
        riskiest = sorted(range(len(pool)), key=lambda i: (-pool[i][2][-1], pool[i][1], -i))
        drop = riskiest[: math.floor(fraction * len(pool))]
        rest = sorted((pool[i] for i in range(len(pool)) if i not in drop), key=lambda y: -y[1])
        done += [y for y in rest[:k] if y[0][-1] == end]
        live = [y for y in (rest if refill else rest[:k]) if y[0][-1] != end][:k]
        done.sort(key=lambda y: -y[1])
        enough = k if refill else 1
        if not live or (len(done) >= enough and done[enough - 1][1] >= live[0][1]):
            break
    return sorted(done + live, key=lambda y: -y[1])
