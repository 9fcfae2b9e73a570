from pathlib import Path

import torch


def test_two_processes_share_groups_log_and_weights(demo_config, run_command, tmp_path):
    script = Path(__file__).with_name('two_processes.py')
    work_dir = tmp_path / 'run'
    done = run_command('torchrun', '--nproc_per_node=2', '--master_port=29713', script, demo_config, work_dir)
    first, second = (torch.load(work_dir / f'rank{rank}.pth') for rank in (0, 1))
    assert first['names'] == second['names'] == ['backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head']
    # running statistics of batch norm are each rank's own, as in stock
    parameters = [name for name in first['weights'] if 'running' not in name and 'num_batches' not in name]
    assert all(torch.equal(first['weights'][name], second['weights'][name]) for name in parameters)
    assert done.stdout.count('Parameter groups') == 1
    assert len(list(work_dir.glob('*/param_groups.json'))) == 1
    assert len(list(work_dir.glob('*/*.log'))) == 1
