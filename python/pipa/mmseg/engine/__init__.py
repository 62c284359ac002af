"""mmengine's side of a training: the hook, checkpoints, signals, processes."""
