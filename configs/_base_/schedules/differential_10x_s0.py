# S0 to the letter: the ratios of differential_10x on a base rate of 5e-3.
# The linear rule (0.02 for a batch of 16) gives 2.5e-3 at batch 2, so this is twice that for the backbone and twenty
# times for the heads: leave the gradients clipped. S0's own remedy when it is unstable: base 1e-3 and heads 5x.
_base_ = './differential_10x.py'

optim_wrapper = dict(optimizer=dict(lr=5e-3))
