"""One model over several processes, the ranks: each holds a part of every layer's weights.

Rank 0 leads: it alone schedules, samples and talks to the front. The others follow: they run the
layers of its steps and their part of the vocabulary. All of them hold the whole residual stream.
"""
