"""Started by torchrun: trains a config on two gloo processes of a CPU build of torch and saves the weights of each."""

import sys

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner

config, work_dir = sys.argv[1:]
dist.init_process_group('gloo')  # MMEngine's own start-up asks for CUDA
torch.set_num_threads(1)
cfg = Config.fromfile(config)
cfg.merge_from_dict(
    {
        'work_dir': work_dir,
        'launcher': 'pytorch',
        'env_cfg.dist_cfg.backend': 'gloo',
        'train_cfg.max_epochs': 1,
        'train_dataloader.batch_size': 2,
        'default_hooks.logger.interval': 1,
        'randomness': {'seed': 0},
    }
)
for loader in (cfg.train_dataloader, cfg.val_dataloader):
    loader.num_workers = 0
    loader.persistent_workers = False
cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', 'device_ids': None}
runner = Runner.from_cfg(cfg)
runner.train()
names = [group['name'] for group in runner.optim_wrapper.optimizer.param_groups]
torch.save({'names': names, 'weights': runner.model.module.state_dict()}, f'{work_dir}/rank{dist.get_rank()}.pth')
dist.destroy_process_group()
