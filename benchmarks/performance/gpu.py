"""Training on a GPU, stock MMDetection against mmext: ``python benchmarks/performance/gpu.py [--data DIR]``.

Mask R-CNN R50-FPN at 1333 x 800, batch 16, in fp32 and bf16, with 2 and 8 workers: time of an iteration with its share of
waiting for data, most memory on the GPU, and, from torch.profiler, copies between host and device and synchronisations in an
iteration. The trace of each side is written beside the record for a look at where the time goes.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import torch
from made import write_large
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from side_by_side import coco_parts, record_of, write
from torch.profiler import ProfilerActivity, profile
from whole_runs import PARTS, STOCK, r50, three_ways

COPIES, WAITS = ('Memcpy HtoD', 'Memcpy DtoH'), ('cudaStreamSynchronize', 'cudaDeviceSynchronize')


class Training:
    """A model, its optimizer and its data, one iteration at a time."""

    def __init__(self, cfg: Config, precision: str, workers: int, batch: int, device: str):
        cfg.train_dataloader.update(batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
        cfg.optim_wrapper.pop('constructor', None)
        cfg.optim_wrapper.pop('paramwise_cfg', None)
        if precision == 'bf16':
            cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model).to(device).train()
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.device = device
        self.batches = itertools.chain.from_iterable(
            iter(loader) for loader in itertools.repeat(Runner.build_dataloader(cfg.train_dataloader, seed=0))
        )

    def step(self) -> tuple[float, float]:
        """Seconds of an iteration, and those of them that the data was waited for."""
        start = time.perf_counter()
        batch = next(self.batches)
        waited = time.perf_counter() - start
        self.model.train_step(batch, self.optim_wrapper)
        if self.device != 'cpu':
            torch.cuda.synchronize()
        return time.perf_counter() - start, waited


def measure(training: Training, iterations: int, trace: Path) -> dict:
    """One side: seconds of each iteration, the mean wait for data, most memory, copies and waits in an iteration."""
    for _ in range(3):
        training.step()
    cuda = training.device != 'cpu'
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = [training.step() for _ in range(iterations)]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(3):
            training.step()
    profiler.export_chrome_trace(str(trace))
    counts = {event.key: event.count / 3 for event in profiler.key_averages()}
    copies = {name: sum(count for key, count in counts.items() if key.startswith(name)) for name in (*COPIES, *WAITS)}
    waits = sum(wait for _, wait in times) / len(times)
    return {
        'seconds': [seconds for seconds, _ in times],
        'peak_bytes': torch.cuda.max_memory_allocated() if cuda else None,
        'steps': [{'waiting for data': waits}],
        'counts': copies,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=20)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--workers', type=int, nargs='+', default=[2, 8])
    parser.add_argument('--precision', nargs='+', default=['fp32', 'bf16'], choices=['fp32', 'bf16'])
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--data', type=Path, help='a COCO folder of your own: takes the place of made images')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('gpu.json'))
    chosen = parser.parse_args()
    if chosen.device != 'cpu' and not torch.cuda.is_available():
        print('There is no GPU; its rows stay empty.', file=sys.stderr)
        return 0
    register_all_modules(init_default_scope=True)
    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.data:
            parts = coco_parts(chosen.data)
        else:
            parts = {
                part: (write_large(folder / part, 32, (0, place)), folder / part)
                for place, part in enumerate(('train', 'val'))
            }
        for precision, workers in itertools.product(chosen.precision, chosen.workers):
            sides = {}
            for side in (STOCK, PARTS):
                cfg = three_ways(r50(parts, folder, chosen.iterations))[side]
                training = Training(cfg, precision, workers, chosen.batch, chosen.device)
                trace = chosen.out.with_name(f'gpu_{side}_{precision}_{workers}.trace.json')
                sides[side] = measure(training, chosen.iterations, trace)
                print(side, sides[side]['counts'])
            row = f'R50 iteration, batch {chosen.batch}, {precision}, {workers} workers'
            data = chosen.data.name if chosen.data else 'made, 1280x1024'
            records.append(record_of(row, data, sides))
    write(records, chosen.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
