"""Training throughput of the same LLaMA in PyTorch, to compare with.

Without arguments it is the small model of `cargo bench --bench train_step`, in f32 on the CPU. `tests/gpu.sh` runs it on
a GPU with `--preset`. Whole updates are timed: forward, backward, clipping, AdamW. In bf16 and f16 weights and moments
stay f32 (`torch.autocast`), as in Sepia; f16 scales its loss.
"""

import argparse
import json
import math
import resource
import time

import torch
from torch import nn
from torch.nn import functional as F

# d_model, d_ff, n_layer, n_head, as in stages/src/model/config.rs.
PRESETS = {
    "bench": (256, 688, 4, 4),
    "9m": (128, 352, 4, 4),
    "20m": (256, 688, 4, 4),
    "35m": (384, 1024, 6, 8),
    "60m": (512, 1376, 8, 8),
    "130m": (768, 2048, 12, 12),
    "250m": (768, 2560, 24, 16),
    "350m": (1024, 2736, 24, 16),
    "1b": (2048, 5461, 24, 32),
    "7b": (4096, 11008, 32, 32),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# Updates that pay for compilation and tuning and are not counted.
WARM_UP = 3


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-6)


def rope_tables(seq, width, device):
    angle = torch.outer(torch.arange(seq).float(), 10000.0 ** (-torch.arange(0, width, 2).float() / width))
    angle = torch.cat([angle, angle], dim=-1).to(device)
    return angle.cos(), angle.sin()


def turn(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class Block(nn.Module):
    def __init__(self, d_model, d_ff, n_head):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.n_head = n_head
        self.norm1, self.norm2 = RmsNorm(d_model), RmsNorm(d_model)
        self.q, self.k, self.v, self.o = (linear(d_model, d_model) for _ in range(4))
        self.gate, self.up, self.down = linear(d_model, d_ff), linear(d_model, d_ff), linear(d_ff, d_model)

    def forward(self, x, cos, sin):
        batch, seq, width = x.shape
        h = self.norm1(x)
        q, k, v = (p(h).view(batch, seq, self.n_head, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True)
        x = x + self.o(h.transpose(1, 2).reshape(batch, seq, width))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, sizes, vocab):
        super().__init__()
        d_model, d_ff, n_layer, n_head = sizes
        self.embed = nn.Embedding(vocab, d_model)
        self.blocks = nn.ModuleList(Block(d_model, d_ff, n_head) for _ in range(n_layer))
        self.norm = RmsNorm(d_model)
        self.head = nn.Linear(d_model, vocab, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, cos, sin, dtype):
        x = self.embed(tokens).to(dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def measure(model, optimizer, args):
    """Seconds of each update after the warm-up, and the last loss."""
    cuda = args.device.startswith("cuda")
    dtype = DTYPES[args.dtype]
    cos, sin = rope_tables(args.seq, PRESETS[args.preset][0] // PRESETS[args.preset][3], args.device)
    scaler = torch.amp.GradScaler(args.device.split(":")[0], enabled=args.dtype == "f16")
    seconds = []

    def forward():
        tokens = torch.randint(args.vocab, (args.batch, args.seq + 1)).to(args.device)
        with torch.autocast(args.device.split(":")[0], dtype=dtype, enabled=dtype != torch.float32):
            logits = model(tokens[:, :-1], cos, sin, dtype)
        return F.cross_entropy(logits.float().view(-1, args.vocab), tokens[:, 1:].reshape(-1))

    for step in range(WARM_UP + args.steps):
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        for _ in range(args.accum):
            loss = forward()
            scaler.scale(loss / args.accum).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        if cuda:
            torch.cuda.synchronize()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - begin)
    assert math.isfinite(loss.item())
    return seconds, loss.item()


def peak_memory(device):
    """Bytes that the process holds at its peak: on a GPU as its driver counts them, the context included."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info()
        return total - free
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=22, help="updates that are counted")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", choices=PRESETS, default="bench")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accum", type=int, default=1, help="batches of an update")
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true", help="one line of JSON for the fastest optimiser")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Llama(PRESETS[args.preset], args.vocab).to(args.device)
    called = torch.compile(model) if args.compile else model
    # PyTorch's own default for the CPU would be `foreach=False`; both are tried and the faster one counts.
    found = []
    for name, options in (("default", {}), ("fused", {"fused": True})):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6, weight_decay=0.0, **options)
        seconds, loss = measure(called, optimizer, args)
        rates = sorted(args.accum * args.batch * args.seq / second for second in seconds)
        state = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if t.dim() > 0)
        found.append({
            "optimizer": name,
            "tokens_per_second": rates[len(rates) // 2],
            "best_tokens_per_second": rates[-1],
            "optimizer_state_bytes": state,
            "peak_memory_bytes": peak_memory(args.device),
            "loss": loss,
            "parameters": sum(p.numel() for p in model.parameters()),
            "torch": torch.__version__,
        })
        del optimizer
        if not args.json:
            print(f"pytorch {torch.__version__}, AdamW {name}, threads {args.threads}: "
                  f"{found[-1]['tokens_per_second']:.0f} tokens/s (median), {rates[-1]:.0f} (best)")
    fastest = max(found, key=lambda one: one["tokens_per_second"])
    if args.json:
        print(json.dumps(fastest))
    else:
        print(f"parameters {fastest['parameters']}, fastest median {fastest['tokens_per_second']:.0f}")


main()
