"""The spot check: a few steps of a suspect's training, checked on data that it is bound to."""
