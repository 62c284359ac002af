"""ProDA, stage 3: stage 2 once more, from the network that it ended with."""
# title: ProDA, stage 3 (distillation from stage 2)
# networks: deeplabv2_r101
# over: proda_stage2
# set: load_from = "work_dirs/{domains}_{network}_proda_stage2/iter_90000.pth"  # Stage 2, where `pipa train`
#   leaves it: it starts this stage, and a fixed copy of it gives the labels.
