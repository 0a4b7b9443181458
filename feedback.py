"""
What is fed back: from the hidden states after one position to the input of the next, which is a thought.

`--feedback=NAME` chooses; a function of FEEDBACKS is a new one. It gets
    states  the hidden states at the last position, a list of (B, 1, C): the input embedding, after each block, and in
            the last place after the final LayerNorm: n_layer + 1 of them
    model   for what needs its head or its embeddings
and returns the next input, (B, 1, C). How often that is done is the business of Coconut.think in coconut.py.
"""


def last(states, model):
    """h_L after the final LayerNorm: the paper's (section 3)."""
    return states[-1]


def layer(states, model, index):
    """h_index of another layer; counted from the end, -1 would be `last`."""
    return states[int(index)]


def soft(states, model, sharpness=1.0):
    """sum_w p(w)^s E(w) / sum_w p(w)^s: the mean of the embeddings of what the model would say (CoT2, 2505.23648)."""
    p = (model.head(states[-1]) * float(sharpness)).softmax(-1)  # (B, 1, V)
    return model.mix(p)


FEEDBACKS = {"last": last, "layer": layer, "soft": soft}


class Feedback:
    """One of FEEDBACKS, with the numbers that stand in its name."""

    def __init__(self, function, numbers):
        self.function, self.numbers = function, numbers

    def __call__(self, states, model):
        return self.function(states, model, *self.numbers)


def make_feedback(name, n_embd):
    """The feedback of a name such as "last" or "layer:-2"; ValueError if there is none."""
    kind, *numbers = name.split(":")
    if kind not in FEEDBACKS:
        raise ValueError(f"feedback = {name!r}, expected one of {', '.join(FEEDBACKS)}")
    return Feedback(FEEDBACKS[kind], [float(number) for number in numbers])
