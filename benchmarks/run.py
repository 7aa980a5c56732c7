"""`python -m benchmarks.run`: checks every case against the reference, then times it beside its peers."""

from __future__ import annotations

import argparse
import csv
import datetime
from pathlib import Path

import torch

import vlae_fast as vf
from vlae_fast import native

from .cases import SAMPLING, SamplingCase, live_flops
from .measure import SGEMM_FLOPS, commit, cpu_name, interleaved, quantile, sgemm
from .peers import PlainDecoder, naive_sample

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "suite case contender backend dtype p20_ms p50_ms p80_ms gflops sgemm_gflops fraction_of_sgemm speedup "
    "device isa threads torch commit date"
).split()


def check_sampling(
    case: SamplingCase, sampler: vf.PixelCNNSampler, plain: PlainDecoder, z: torch.Tensor, noise: torch.Tensor
) -> str:
    """Raises where the image is not that of the naive sampler; says what was compared."""
    rows = case.naive_rows or noise.shape[2]
    images, logits = sampler.sample_with_logits(z, noise)
    naive = naive_sample(plain, z, noise, rows)
    different = (images[:, :, :rows] != naive[:, :, :rows]).flatten(1).any(1)
    close = ((logits - torch.logit(noise)).abs() < 1e-5).flatten(1).any(1)  # float32 cannot decide these pixels
    if (different & ~close).any():
        raise SystemExit(f"{case.name}: images differ from the naive sampler; nothing is timed")
    return f"{int(different.sum())} of {case.batch} images differ in {rows} rows"


def run_sampling(case: SamplingCase, backend: str, rounds: int) -> list[dict[str, object]]:
    decoder = case.build()
    z = torch.randn(case.batch, decoder.latent_dim)
    noise = torch.rand(case.batch, decoder.input_dim, *decoder.image_size)
    sampler, plain = vf.PixelCNNSampler(decoder, backend), PlainDecoder(decoder)
    checked = check_sampling(case, sampler, plain, z, noise)
    height = decoder.image_size[0]
    scale = height / (case.naive_rows or height)
    naive = "naive eager" if scale == 1 else f"naive eager ({case.naive_rows} of {height} rows, scaled)"
    times = interleaved(
        {
            "vlae_fast": lambda: sampler.sample(z, noise),
            "sgemm": sgemm(),
            naive: lambda: naive_sample(plain, z, noise, case.naive_rows),
        },
        rounds,
    )
    times[naive] = [t * scale for t in times[naive]]
    flops = case.batch * live_flops(sampler.plan.stages, decoder.input_dim, decoder.image_size)
    ceiling = SGEMM_FLOPS / quantile(times["sgemm"], 0.5)
    ours = quantile(times["vlae_fast"], 0.5)
    rows = []
    for contender in ("vlae_fast", naive):
        p50 = quantile(times[contender], 0.5)
        rows.append(
            {
                "suite": "sampling",
                "case": case.name,
                "contender": contender,
                "backend": sampler.backend if contender == "vlae_fast" else "eager",
                "dtype": "float32",
                **{f"p{q}_ms": f"{1e3 * quantile(times[contender], q / 100):.3f}" for q in (20, 50, 80)},
                "gflops": f"{flops / p50 / 1e9:.1f}",
                "sgemm_gflops": f"{ceiling / 1e9:.1f}",
                "fraction_of_sgemm": f"{flops / p50 / ceiling:.3f}",
                "speedup": f"{p50 / ours:.1f}",
            }
        )
    print(
        f"{case.name}: {1e3 * ours:.2f} ms, {sampler.steps} steps, {flops / ours / 1e9:.0f} GFLOP/s of live work "
        f"(sgemm {ceiling / 1e9:.0f}), {rows[1]['speedup']}x {naive}; {checked}",
        flush=True,
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto", help="backend of ours; see `python -m vlae_fast info`")
    parser.add_argument(
        "--quick", action="store_true", help="few cases, one round; rows go to out/bench, unless --out says where"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder of the CSV files that rows are appended to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = {
        "device": cpu_name(),
        "isa": next(iter(native.isas()), ""),
        "threads": args.threads,
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    out = args.out or (Path("out/bench") if args.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    for case in SAMPLING:
        if case.quick or not args.quick:
            rows = run_sampling(case, args.backend, rounds=1 if args.quick else 3)
            path = out / "sampling.csv"
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerows({**row, **about} for row in rows)


if __name__ == "__main__":
    main()
