"""Learners that learn from mini-batches of labels: a network, a bounded buffer of what was seen, and a method.

`learner` gathers events into mini-batches, `network` and `classifier` are what is trained, `memory` the buffer, `spec`
the fields that the methods of `learners.methods` share, and `method` what one of them says of itself.
"""
