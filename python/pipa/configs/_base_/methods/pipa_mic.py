"""PiPa and MIC together: the contrasts shape the features, the masks teach context; neither needs the other's pass."""
# title: PiPa and masked consistency (MIC)
# over: pipa mic
