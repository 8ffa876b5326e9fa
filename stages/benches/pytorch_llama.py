"""Training throughput of the same small LLaMA in PyTorch eager, to compare with `cargo bench --bench train_step`.

Prints tokens per second of whole updates (forward, backward, clipping, AdamW). Everything is f32 on the CPU.
"""

import argparse
import math
import time

import torch
from torch import nn
from torch.nn import functional as F

D_MODEL, D_FF, N_LAYER, N_HEAD, VOCAB, SEQ, BATCH = 256, 688, 4, 4, 1024, 128, 16


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


def rope_tables(seq, width):
    angle = torch.outer(torch.arange(seq).float(), 10000.0 ** (-torch.arange(0, width, 2).float() / width))
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def turn(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.norm1, self.norm2 = RmsNorm(D_MODEL), RmsNorm(D_MODEL)
        self.q, self.k, self.v, self.o = (linear(D_MODEL, D_MODEL) for _ in range(4))
        self.gate, self.up, self.down = linear(D_MODEL, D_FF), linear(D_MODEL, D_FF), linear(D_FF, D_MODEL)

    def forward(self, x, cos, sin):
        batch, seq, _ = x.shape
        h = self.norm1(x)
        q, k, v = (p(h).view(batch, seq, N_HEAD, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True)
        x = x + self.o(h.transpose(1, 2).reshape(batch, seq, D_MODEL))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, D_MODEL)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYER))
        self.norm = RmsNorm(D_MODEL)
        self.head = nn.Linear(D_MODEL, VOCAB, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, cos, sin):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Llama()
    cos, sin = rope_tables(SEQ, D_MODEL // N_HEAD)
    # PyTorch's own default for the CPU would be `foreach=False`; both are tried and the faster one counts.
    best = {}
    for name, options in (("default", {}), ("fused", {"fused": True})):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6, weight_decay=0.0, **options)
        rates = []
        for step in range(args.steps):
            begin = time.perf_counter()
            tokens = torch.randint(VOCAB, (BATCH, SEQ + 1))
            logits = model(tokens[:, :-1], cos, sin)
            loss = F.cross_entropy(logits.view(-1, VOCAB), tokens[:, 1:].reshape(-1))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            assert math.isfinite(loss.item())
            if step >= 3:
                rates.append(BATCH * SEQ / (time.perf_counter() - begin))
        rates.sort()
        best[name] = rates[len(rates) // 2]
        print(f"pytorch {torch.__version__}, AdamW {name}, threads {args.threads}: "
              f"{rates[len(rates) // 2]:.0f} tokens/s (median), {rates[-1]:.0f} (best)")
    print(f"parameters {sum(p.numel() for p in model.parameters())}, fastest median {max(best.values()):.0f}")


main()
