"""Studies: one command trains a grid of methods, settings and seeds and says what differs by more than chance.

definition    what a study is: methods, grid, seeds, score rule (YAML; the shipped ones are in ``definitions/``)
worker        one training, in a process of its own, that can be killed and goes on
runner        the processes side by side, finished runs kept
progress      the table on the screen, with the time left
results       results.json
statistics    means, paired differences, bootstrap interval, sign test
tables        Markdown tables
plots         forest plot and curves as SVG
page          tables of the JSON files between the markers of a page
"""
