#!/usr/bin/env python3
"""Keep of a checkpoint what a fine-tuning needs: the weights, in half precision.

Usage: python tools/publish_weights.py work_dirs/source/epoch_8.pth configs/demo/mask-rcnn_r18_fpn_source.pth
"""

import argparse

import torch

from mmext.safe_load import allow_mmengine_checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='a checkpoint that MMEngine wrote')
    parser.add_argument('out', help='the file to write')
    arguments = parser.parse_args()
    allow_mmengine_checkpoints()
    checkpoint = torch.load(arguments.checkpoint, map_location='cpu', weights_only=True)
    weights = {
        name: value.half() if value.is_floating_point() else value for name, value in checkpoint['state_dict'].items()
    }
    torch.save({'state_dict': weights, 'meta': {'dataset_meta': checkpoint['meta']['dataset_meta']}}, arguments.out)


if __name__ == '__main__':
    main()
