"""What each head and each FFN is worth: scores, and the files that carry them."""
