"""Studies: one command trains a grid of methods, settings and seeds and says what differs by more than chance.

definition    what a study is: methods, grid, seeds, score rule (YAML; the shipped ones are in ``definitions/``)
content       what its file says, with what it takes over from another one
worker        one training, in a process of its own, that can be killed and goes on
processes     these processes: started, asked to end, what they leave
chain         trainings that start from the weights of another
runner        the processes side by side, finished runs kept
progress      the table on the screen, with the time left
results       results.json
statistics    means, paired differences, bootstrap interval, sign test
tables        Markdown tables
inside        tables of gradients, pseudo-labels, distances
plots         forest plot and curves as SVG
page          tables of the JSON files between the markers of a page
"""
