"""Which heads and FFNs to keep under a budget: chosen on some documents, judged on others."""
