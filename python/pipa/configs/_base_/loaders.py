"""Loaders."""

# As many source as target images, two of each: what fits beside teacher and ImageNet model, and what was published.
batch_size = 2
num_workers = 4

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="DrawSampler"),
    dataset=train_dataset,
)
target_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    # Its own stream of random numbers.
    sampler=dict(type="DrawSampler", stream=1),
    dataset=dict(**target, pipeline=target_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**target_val, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
