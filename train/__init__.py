"""How a model gets better: buffer, learner, gate. Plain Python and torch, no Ray."""
