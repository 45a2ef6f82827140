"""Notebook 02: the wrong answer that its exercises refuse."""

WRONG = ("expected=np.exp(-log_k)", "expected=np.exp(-2 * log_k)")
