"""The network `gpt` by its formulas: one sample, one token, one head at a time."""

from __future__ import annotations

import math

import torch


def _norm(x, weights, name):
    if f"{name}.weight" not in weights:
        return x
    scaled = (x - x.mean()) / ((x - x.mean()).square().mean() + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x, weights, name):
    return torch.einsum("oi,i->o", weights[f"{name}.weight"], x) + weights[f"{name}.bias"]


def _turned(x, place):
    """Turn channels i and i + E / 2 by the angle of their pair, one pair at a time."""
    out, half = x.clone(), len(x) // 2
    for i in range(half):
        angle = place / 10000 ** (2 * i / len(x))
        out[i] = math.cos(angle) * x[i] - math.sin(angle) * x[i + half]
        out[i + half] = math.sin(angle) * x[i] + math.cos(angle) * x[i + half]
    return out


def _attended(states, weights, block, heads, *, rotary):
    """Return what every token gathers, one token and one head at a time."""
    parts = {}
    for part in ("query", "key", "value"):
        of_tokens = [_linear(x, weights, f"{block}.attention.{part}") for x in states]
        parts[part] = [x.view(heads, -1) for x in of_tokens]
    gathered = []
    for place in range(len(states)):
        of_heads = []
        for head in range(heads):
            query = parts["query"][place][head]
            keys = [parts["key"][other][head] for other in range(place + 1)]
            if rotary:
                query, keys = _turned(query, place), [_turned(k, i) for i, k in enumerate(keys)]
            scores = torch.stack([torch.einsum("e,e->", query, key) for key in keys])
            shares = (scores / math.sqrt(len(query))).exp()
            values = torch.stack([parts["value"][other][head] for other in range(place + 1)])
            of_heads.append(torch.einsum("t,te->e", shares / shares.sum(), values))
        gathered.append(_linear(torch.cat(of_heads), weights, f"{block}.attention.output"))
    return gathered


def logits(weights, sentence, *, depth, heads, residual=True):
    """Return the logits of one sample, (T, V), from its tokens and the parameters by name."""
    rotary = "positions.weight" not in weights
    states = [weights["embedding.weight"][t] for t in sentence.tolist()]
    if not rotary:
        states = [x + weights["positions.weight"][i] for i, x in enumerate(states)]
    for block in (f"blocks.{number}" for number in range(depth)):
        normed = [_norm(x, weights, f"{block}.norm1") for x in states]
        gathered = _attended(normed, weights, block, heads, rotary=rotary)
        states = [x * residual + g for x, g in zip(states, gathered, strict=True)]
        for place, x in enumerate(states):
            inner = _linear(_norm(x, weights, f"{block}.norm2"), weights, f"{block}.mlp.up")
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            states[place] = x * residual + _linear(inner, weights, f"{block}.mlp.down")
    rows = [_norm(x, weights, "norm") for x in states]
    return torch.stack([torch.einsum("vd,d->v", weights["embedding.weight"], x) for x in rows])
