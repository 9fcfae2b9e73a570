from mmext.optim.group_table import GroupRow, group_rows
from mmext.optim.param_groups import NamedParamGroupConstructor, part_of
from mmext.optim.warmup_share import WarmupShareLR

__all__ = ['GroupRow', 'NamedParamGroupConstructor', 'WarmupShareLR', 'group_rows', 'part_of']
