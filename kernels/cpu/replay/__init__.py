"""Mini-batches in compiled code: a perceptron forward and back, losses over logits, places in a buffer.

Every row of a product is summed in an order of its own, whatever other rows there are: a prediction has the same bits
alone and among others, and on every machine.
"""
